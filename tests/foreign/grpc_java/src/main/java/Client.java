// grpc-java with okhttp, the transport of Android: plays tests/foreign/steps.py.

import com.google.gson.Gson;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import hubbub.chat.v1.ChatServiceGrpc;
import hubbub.chat.v1.ChatServiceOuterClass.Ack;
import hubbub.chat.v1.ChatServiceOuterClass.ConnectRequest;
import hubbub.chat.v1.ChatServiceOuterClass.ConnectResponse;
import hubbub.chat.v1.ChatServiceOuterClass.Hello;
import hubbub.chat.v1.EventOuterClass.Event;
import hubbub.chat.v1.Frame.Command;
import hubbub.chat.v1.Frame.SendMessageRequest;
import hubbub.chat.v1.Frame.ServerFrame;
import hubbub.conversation.v1.ConversationOuterClass.Cursor;
import hubbub.conversation.v1.MessageOuterClass.Content;
import hubbub.conversation.v1.MessageOuterClass.TextContent;
import hubbub.history.v1.HistoryServiceGrpc;
import hubbub.history.v1.HistoryServiceOuterClass.SyncRequest;
import hubbub.history.v1.HistoryServiceOuterClass.SyncResponse;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.okhttp.OkHttpChannelBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.MetadataUtils;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Predicate;

public final class Client {
  private static final long UNARY_TIMEOUT_S = 10;
  private static final ServerFrame END = ServerFrame.newBuilder().build();

  /** What steps.py calls a Script; the names are those of JSON. */
  private static final class Script {
    String streams, unary, token, peer_token, conversation, history, nobody, instance, other_instance;
    List<String> message_ids, texts;
    long deadline_ms, idle_ms;
  }

  /** A call that is read frame by frame; {@code ended} is its status, and its trailers if it failed. */
  private static class Frames<Request, Response> implements ClientResponseObserver<Request, Response> {
    final LinkedBlockingQueue<ServerFrame> frames = new LinkedBlockingQueue<>();
    final CompletableFuture<com.google.rpc.Status> ended = new CompletableFuture<>();
    final Function<Response, ServerFrame> frameOf;
    ClientCallStreamObserver<Request> call;

    Frames(Function<Response, ServerFrame> frameOf) {
      this.frameOf = frameOf;
    }

    @Override
    public void beforeStart(ClientCallStreamObserver<Request> call) {
      this.call = call;
    }

    @Override
    public void onNext(Response response) {
      frames.add(frameOf.apply(response));
    }

    @Override
    public void onError(Throwable error) {
      ended.complete(StatusProto.fromThrowable(error));
      frames.add(END);
    }

    @Override
    public void onCompleted() {
      ended.complete(com.google.rpc.Status.getDefaultInstance());
      frames.add(END);
    }

    com.google.rpc.Status end() throws Exception {
      while (frames.take() != END) {}
      return ended.get();
    }
  }

  /** A stream of Connect. */
  private static final class Session extends Frames<ConnectRequest, ConnectResponse> {
    final ManagedChannel channel;
    final List<Event> events = new ArrayList<>();

    Session(ManagedChannel channel, String token, long deadlineMs) {
      super(ConnectResponse::getFrame);
      this.channel = channel;
      var stub = with(ChatServiceGrpc.newStub(channel), token);
      (deadlineMs > 0 ? stub.withDeadlineAfter(deadlineMs, TimeUnit.MILLISECONDS) : stub).connect(this);
    }

    void hello(String instance) {
      call.onNext(ConnectRequest.newBuilder().setHello(Hello.newBuilder().setInstanceId(instance)).build());
    }

    /** Reads until a frame is wanted; keeps all events. */
    ServerFrame expect(Predicate<ServerFrame> isWanted) throws Exception {
      for (ServerFrame frame; (frame = frames.take()) != END; ) {
        events.addAll(frame.getEventsList());
        if (isWanted.test(frame)) return frame;
      }
      throw new IllegalStateException("the stream ended: " + ended.get());
    }

    /** Reads the heads up to the complete ones. */
    Map<String, Cursor> heads() throws Exception {
      var heads = new HashMap<String, Cursor>();
      while (true) {
        var told = expect(ServerFrame::hasHeads).getHeads();
        told.getHeadsList().forEach(head -> heads.put(head.getCursor().getTopicId(), head.getCursor()));
        if (told.getComplete()) return heads;
      }
    }
  }

  private final Script script;
  private final ManagedChannel unary;
  private Session session;
  private Cursor head;
  private Cursor old;
  private long openedMs;

  private Client(Script script) {
    this.script = script;
    this.unary = dial(script.unary);
  }

  private static ManagedChannel dial(String address) {
    return OkHttpChannelBuilder.forTarget(address).usePlaintext().build();
  }

  private static <T extends AbstractStub<T>> T with(T stub, String token) {
    var metadata = new Metadata();
    if (!token.isEmpty()) {
      metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    }
    return stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata));
  }

  /** Opens the session on a new connection. */
  private Session open() {
    var opened = new Session(dial(script.streams), script.token, 0);
    opened.hello(script.instance);
    return opened;
  }

  /** Opens a session beside it and waits for Welcome. */
  private Session openOther(long deadlineMs) throws Exception {
    var other = new Session(session.channel, script.token, deadlineMs);
    other.hello(script.other_instance);
    other.expect(ServerFrame::hasWelcome);
    return other;
  }

  private SendMessageRequest message(int n) {
    return SendMessageRequest.newBuilder()
        .setConversationId(script.conversation)
        .setClientMessageId(script.message_ids.get(n))
        .setContent(Content.newBuilder().setText(TextContent.newBuilder().setText(script.texts.get(n))))
        .build();
  }

  private void peerSends(int... which) {
    for (int n : which) {
      with(ChatServiceGrpc.newBlockingStub(unary), script.peer_token)
          .withDeadlineAfter(UNARY_TIMEOUT_S, TimeUnit.SECONDS)
          .sendMessage(message(n));
    }
  }

  /** Returns the frames of one request. */
  private List<ServerFrame> sync(Cursor cursor) throws Exception {
    var answer = new Frames<SyncRequest, SyncResponse>(SyncResponse::getFrame);
    with(HistoryServiceGrpc.newStub(session.channel), script.token).sync(answer);
    answer.call.onNext(SyncRequest.newBuilder().addCursors(cursor).build());
    answer.call.onCompleted();
    var frames = new ArrayList<ServerFrame>();
    for (ServerFrame frame; (frame = answer.frames.take()) != END; ) frames.add(frame);
    if (answer.ended.get().getCode() != 0) throw new IllegalStateException("Sync ended: " + answer.ended.get());
    return frames;
  }

  private static String textOf(Event event) {
    return event.getMessageSent().getMessage().getContent().getText().getText();
  }

  private static Map<String, Object> explain(com.google.rpc.Status status) throws Exception {
    var reason = "";
    var field = "";
    for (var detail : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) reason = detail.unpack(ErrorInfo.class).getReason();
      if (detail.is(BadRequest.class)) field = detail.unpack(BadRequest.class).getFieldViolations(0).getField();
    }
    return Map.of("code", status.getCode(), "message", status.getMessage(), "reason", reason, "field", field);
  }

  private Map<String, Object> hello() throws Exception {
    session = open();
    var welcome = session.expect(ServerFrame::hasWelcome).getWelcome();
    var heads = session.heads();
    old = heads.get(script.history);
    head = heads.get(script.conversation);
    return Map.of("heartbeat_s", welcome.getHeartbeatInterval().getSeconds(), "heads", heads.size());
  }

  private Map<String, Object> send() throws Exception {
    var numbers = new ArrayList<Long>();
    for (var requestId : List.of("first", "again")) {
      var command = Command.newBuilder().setRequestId(requestId).setSendMessage(message(0));
      session.call.onNext(ConnectRequest.newBuilder().setCommand(command).build());
      numbers.add(session.expect(ServerFrame::hasReply).getReply().getSendMessage().getMessageNumber());
    }
    return Map.of("number", numbers.get(0), "again", numbers.get(1));
  }

  private Map<String, Object> receive() throws Exception {
    peerSends(1, 2, 3);
    while (session.events.size() < 4) session.expect(frame -> frame.getEventsCount() > 0);
    var dense = true;
    for (var event : session.events) {
      head = head.toBuilder().setPosition(head.getPosition() + 1).build();
      dense &= event.getPosition() == head.getPosition();
    }
    return Map.of("texts", session.events.stream().map(Client::textOf).toList(), "dense", dense);
  }

  private Map<String, Object> history() throws Exception {
    var digest = MessageDigest.getInstance("SHA-256");
    int messages = 0, bytes = 0;
    for (var frame : sync(Cursor.newBuilder().setTopicId(script.history).setEpoch(old.getEpoch()).build())) {
      for (var event : frame.getEventsList()) {
        if (!event.hasMessageSent()) continue;
        var text = textOf(event).getBytes(StandardCharsets.UTF_8);
        messages++;
        bytes += text.length;
        digest.update(text);
      }
      if (frame.hasCaughtUp() && !frame.getCaughtUp().getHeads(0).getCursor().equals(old)) {
        throw new IllegalStateException("caught up to another head");
      }
    }
    return Map.of("messages", messages, "bytes", bytes, "sha256", HexFormat.of().formatHex(digest.digest()));
  }

  private Map<String, Object> deadline() throws Exception {
    return Map.of("code", openOther(script.deadline_ms).end().getCode());
  }

  private Map<String, Object> cancel() throws Exception {
    var other = openOther(0);
    other.call.cancel("enough", null);
    return Map.of("code", other.end().getCode());
  }

  private Map<String, Object> reconnect() throws Exception {
    var second = open();
    var goodbye = session.expect(ServerFrame::hasGoodbye).getGoodbye();
    var code = session.end().getCode();
    session.channel.shutdownNow();
    second.heads();
    second.channel.shutdownNow();
    peerSends(4, 5);
    session = open();
    var now = session.heads().get(script.conversation);
    openedMs = System.currentTimeMillis();
    var missed = new ArrayList<String>();
    for (var frame : sync(head)) frame.getEventsList().forEach(event -> missed.add(textOf(event)));
    var behind = now.getPosition() - head.getPosition();
    return Map.of("goodbye", goodbye.getReasonValue(), "code", code, "behind", behind, "missed", missed);
  }

  private Map<String, Object> errors() throws Exception {
    var noToken = new Session(session.channel, "", 0);
    var badHello = new Session(session.channel, script.token, 0);
    badHello.hello("no UUID");
    var found = new HashMap<String, Object>();
    found.put("no_token", explain(noToken.end()));
    found.put("bad_hello", explain(badHello.end()));
    for (var frame : sync(Cursor.newBuilder().setTopicId(script.nobody).setEpoch(head.getEpoch()).build())) {
      if (frame.hasRejected()) found.put("rejected", explain(frame.getRejected().getStatus()));
    }
    return found;
  }

  private Map<String, Object> idle() throws Exception {
    var heartbeat = session.expect(ServerFrame::hasHeartbeat).getHeartbeat();
    var ack = Ack.newBuilder().setProcessedEvents(session.events.size());
    session.call.onNext(ConnectRequest.newBuilder().setAck(ack).build());
    Thread.sleep(Math.max(0, openedMs + script.idle_ms - System.currentTimeMillis()));
    peerSends(6);
    var frame = session.expect(each -> each.getEventsCount() > 0);
    session.call.onCompleted();
    return Map.of("live", heartbeat.getLive(), "text", textOf(frame.getEvents(0)));
  }

  private Map<String, Callable<Map<String, Object>>> steps() {
    var steps = new LinkedHashMap<String, Callable<Map<String, Object>>>();
    steps.put("hello", this::hello);
    steps.put("send", this::send);
    steps.put("receive", this::receive);
    steps.put("history", this::history);
    steps.put("deadline", this::deadline);
    steps.put("cancel", this::cancel);
    steps.put("reconnect", this::reconnect);
    steps.put("errors", this::errors);
    steps.put("idle", this::idle);
    return steps;
  }

  public static void main(String[] arguments) {
    var gson = new Gson();
    var out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    var in = new InputStreamReader(System.in, StandardCharsets.UTF_8);
    var client = new Client(gson.fromJson(in, Script.class));
    client.steps().forEach((name, step) -> {
      var beganMs = System.currentTimeMillis();
      try {
        var outcome = step.call();
        var seconds = (System.currentTimeMillis() - beganMs) / 1_000.0;
        out.println(gson.toJson(Map.of("step", name, "outcome", outcome, "seconds", seconds)));
      } catch (Exception error) {
        error.printStackTrace();
        out.println(gson.toJson(Map.of("step", name, "error", error.toString())));
        System.exit(1);
      }
    });
    System.exit(0);
  }
}
