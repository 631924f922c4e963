"""Which tests stay together when `make test` runs groups of them side by side: those that share servers."""

from xdist.scheduler.loadscope import LoadScopeScheduling  # type: ignore[import-untyped]


class ByServers(LoadScopeScheduling):
    """Hands out groups in the order of collection; a group stays on one worker, whose servers its tests share."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, name = nodeid.partition("::")
        if "[cql" in name or "-cql" in name or path.endswith("/test_cql_store.py"):
            return "cql"
        return "contract" if path.startswith("tests/contract/") else path
