"""What a tenant is called where everybody can read it; logs and exports are the operator's."""

from __future__ import annotations

import hashlib

from serve.settings.settings import Tenants


def shown_name(tenant: str, tenants: Tenants) -> str:
    """The tenant's name where a gateway names tenants, else digits that tell one from another.

    Without a gateway, whoever knows a name has that user's jobs. The digits do not hide a name that
    can be guessed, as the jobs of one are no secret either. "", of no tenant, stays.
    """
    if not tenant or tenants.header is not None:
        return tenant
    return f"user-{hashlib.sha256(tenant.encode()).hexdigest()[:8]}"
