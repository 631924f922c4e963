import asyncio, json, sys, uuid, time
import uvloop
from ngh2 import *
from hubbub.chat.v1 import chat_service_pb2 as pb
port, conns, per, tokens = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
count = 0
class P(asyncio.Protocol):
    def connection_made(self, t):
        self.t = t
        self.c = Connection(Role.CLIENT, Configuration(auto_window_update=True))
        self.c.initiate_connection({Setting.INITIAL_WINDOW_SIZE: 1 << 20, Setting.ENABLE_PUSH: 0})
        self.c.set_local_window_size(1 << 24)
        for i in range(per):
            sid = self.c.send_request([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/hubbub.chat.v1.ChatService/Connect"), (b":authority", b"x"), (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"authorization", b"Bearer " + tokens[i % len(tokens)].encode())])
            m = pb.ConnectRequest(hello=pb.Hello(instance_id=str(uuid.uuid4()))).SerializeToString()
            self.c.send_data(sid, b"\0" + len(m).to_bytes(4) + m)
        t.write(self.c.data_to_send())
    def data_received(self, d):
        global count
        self.c.receive_data(d)
        for e in self.c.events():
            if type(e) is DataReceived:
                count += 1
            elif type(e) in (TrailersReceived, StreamReset):
                print("ended", e, file=sys.stderr)
        if o := self.c.data_to_send():
            self.t.write(o)
async def main():
    loop = asyncio.get_running_loop()
    for _ in range(conns):
        await loop.create_connection(P, "127.0.0.1", port)
    r = asyncio.StreamReader(); await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(r), sys.stdin)
    while await r.readline():
        print(json.dumps([count, time.process_time()]), flush=True)
uvloop.run(main())
