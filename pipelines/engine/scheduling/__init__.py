"""Which works step next: pure, without torch, threads or a clock."""
