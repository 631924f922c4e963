import asyncio, json, sys, time, os, resource
import uvloop
sys.path.insert(0, "/work/edge")
from hubbub.conversation.v1 import conversation_service_pb2 as c
from tests.support.node import NodeCluster
from tests.support.live_client import text_message
from hubbub_server.edge.limits import TRUSTED_PROXY
import structlog, logging
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
CONNS, PER, SENDS = (int(x) for x in (sys.argv[1:4] or (50, 20, 400)))
def rss(): return int(open("/proc/self/statm").read().split()[1]) * 4096
async def main():
    cluster = NodeCluster(transport="edge", edge_limits=TRUSTED_PROXY)
    users = [await cluster.sign_up(f"u{i}") for i in range(20)]
    async with cluster.node() as node:
        client = node.client(users[0].access_token)
        r = await client.conversations.CreateConversation(c.CreateConversationRequest(request_id=__import__("uuid").uuid4().__str__(), group=c.GroupSpec(title="g", user_ids=[u.user_id for u in users[1:]])), metadata=client.auth)
        conv = r.view.conversation.conversation_id
        before = rss()
        p = await asyncio.create_subprocess_exec(sys.executable, "/tmp/edge_client.py", node.stream_address.split(":")[1], str(CONNS), str(PER), json.dumps([u.access_token for u in users]), stdin=-1, stdout=-1)
        async def ask():
            p.stdin.write(b"\n"); return json.loads(await p.stdout.readline())
        while len(node.streams) < CONNS * PER or (await ask())[0] < 2 * CONNS * PER: await asyncio.sleep(0.2)
        await asyncio.sleep(1)
        print("open", len(node.streams), "KB/stream", (rss() - before) / CONNS / PER / 1024)
        a, ca = await ask(); t = time.process_time(); w = time.monotonic()
        prof = None
        if os.environ.get("PROF"):
            import cProfile; prof = cProfile.Profile(); prof.enable()
        for _ in range(SENDS):
            await client.chat.SendMessage(text_message(conv, "x" * 100), metadata=client.auth)
        while (await ask())[0] - a < SENDS * CONNS * PER * 0.999 and time.monotonic() - w < 60: await asyncio.sleep(0.05)
        t = time.process_time() - t
        if prof: prof.disable(); import pstats; pstats.Stats(prof).sort_stats("tottime").print_stats(28)
        b, cb = await ask(); w = time.monotonic() - w
        print("us/delivery", t / (b - a) * 1e6, (t / (SENDS*CONNS*PER) * 1e6), "frames", b - a, "of", SENDS * CONNS * PER, "wall", w, "client us", (cb - ca) / (b - a) * 1e6)
        p.kill(); await p.wait()
uvloop.run(main())
