// A white PNG of some size, in a few hundred bytes. It stands for a picture that is not sent yet: what
// drawing from that would cost depends on its size alone.
const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const ONE_BIT_GREY = [1, 0, 0, 0, 0];

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

const crcOf = (bytes) => ~bytes.reduce((crc, byte) => crcTable[(crc ^ byte) & 0xff] ^ (crc >>> 8), ~0) >>> 0;

const bigEndian = (number) => [24, 16, 8, 0].map((shift) => (number >>> shift) & 0xff);

function chunk(kind, data) {
  const named = Uint8Array.from([...kind].map((letter) => letter.charCodeAt(0)).concat([...data]));
  return [...bigEndian(data.length), ...named, ...bigEndian(crcOf(named))];
}

const known = new Map();

/** As a data URL. Rows have a filter byte and a bit a pixel (PNG, third edition, 9 and 7.2). */
export async function blankPicture(width, height) {
  const size = `${width}x${height}`;
  if (!known.has(size)) {
    const row = new Uint8Array(1 + Math.ceil(width / 8)).fill(0xff);
    row[0] = 0;
    const rows = new Blob(Array(height).fill(row)).stream().pipeThrough(new CompressionStream("deflate"));
    const pixels = new Uint8Array(await new Response(rows).arrayBuffer());
    const bytes = [...SIGNATURE, ...chunk("IHDR", [...bigEndian(width), ...bigEndian(height), ...ONE_BIT_GREY]),
      ...chunk("IDAT", pixels), ...chunk("IEND", [])];
    known.set(size, `data:image/png;base64,${btoa(bytes.map((byte) => String.fromCharCode(byte)).join(""))}`);
  }
  return known.get(size);
}
