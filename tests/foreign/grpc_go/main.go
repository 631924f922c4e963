// grpc-go: plays tests/foreign/steps.py.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chat "hubbub.test/foreign/gen/hubbub/chat/v1"
	conversation "hubbub.test/foreign/gen/hubbub/conversation/v1"
	history "hubbub.test/foreign/gen/hubbub/history/v1"
)

const unaryTimeout = 10 * time.Second

type script struct {
	Streams       string   `json:"streams"`
	Unary         string   `json:"unary"`
	Token         string   `json:"token"`
	PeerToken     string   `json:"peer_token"`
	Conversation  string   `json:"conversation"`
	History       string   `json:"history"`
	Nobody        string   `json:"nobody"`
	Instance      string   `json:"instance"`
	OtherInstance string   `json:"other_instance"`
	MessageIDs    []string `json:"message_ids"`
	Texts         []string `json:"texts"`
	DeadlineMS    int      `json:"deadline_ms"`
	IdleMS        int      `json:"idle_ms"`
}

type outcome map[string]any

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func dial(address string) *grpc.ClientConn {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	return connection
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// session is a stream of Connect.
type session struct {
	connection *grpc.ClientConn
	call       chat.ChatService_ConnectClient
	cancel     context.CancelFunc
	events     []*chat.Event
}

func newSession(ctx context.Context, connection *grpc.ClientConn, token string) *session {
	ctx, cancel := context.WithCancel(withToken(ctx, token))
	call, err := chat.NewChatServiceClient(connection).Connect(ctx)
	check(err)
	return &session{connection: connection, call: call, cancel: cancel}
}

func (s *session) hello(instance string) {
	hello := &chat.ConnectRequest_Hello{Hello: &chat.Hello{InstanceId: instance}}
	check(s.call.Send(&chat.ConnectRequest{Payload: hello}))
}

// expect reads until a frame is wanted; it keeps all events.
func (s *session) expect(isWanted func(*chat.ServerFrame) bool) *chat.ServerFrame {
	for {
		response, err := s.call.Recv()
		check(err)
		s.events = append(s.events, response.Frame.Events...)
		if isWanted(response.Frame) {
			return response.Frame
		}
	}
}

func (s *session) welcome() *chat.Welcome {
	return s.expect(func(frame *chat.ServerFrame) bool { return frame.GetWelcome() != nil }).GetWelcome()
}

// heads reads the heads up to the complete ones.
func (s *session) heads() map[string]*conversation.Cursor {
	heads := map[string]*conversation.Cursor{}
	for {
		frame := s.expect(func(frame *chat.ServerFrame) bool { return frame.GetHeads() != nil }).GetHeads()
		for _, head := range frame.Heads {
			heads[head.Cursor.TopicId] = head.Cursor
		}
		if frame.Complete {
			return heads
		}
	}
}

// end reads to the end.
func (s *session) end() *status.Status {
	for {
		if _, err := s.call.Recv(); errors.Is(err, io.EOF) {
			return status.New(0, "")
		} else if err != nil {
			return status.Convert(err)
		}
	}
}

type player struct {
	script
	unary   *grpc.ClientConn
	session *session
	head    *conversation.Cursor
	old     *conversation.Cursor
	opened  time.Time
}

// open opens the session on a new connection.
func (p *player) open() *session {
	opened := newSession(context.Background(), dial(p.Streams), p.Token)
	opened.hello(p.Instance)
	return opened
}

// other opens a session beside it and waits for Welcome.
func (p *player) other(ctx context.Context) *session {
	opened := newSession(ctx, p.session.connection, p.Token)
	opened.hello(p.OtherInstance)
	opened.welcome()
	return opened
}

func (p *player) message(n int) *chat.SendMessageRequest {
	text := &conversation.Content_Text{Text: &conversation.TextContent{Text: p.Texts[n]}}
	return &chat.SendMessageRequest{
		ConversationId:  p.Conversation,
		ClientMessageId: p.MessageIDs[n],
		Content:         &conversation.Content{Kind: text},
	}
}

func (p *player) peerSends(which ...int) {
	for _, n := range which {
		ctx, cancel := context.WithTimeout(withToken(context.Background(), p.PeerToken), unaryTimeout)
		_, err := chat.NewChatServiceClient(p.unary).SendMessage(ctx, p.message(n))
		cancel()
		check(err)
	}
}

// sync returns the frames of one request.
func (p *player) sync(cursor *conversation.Cursor) []*chat.ServerFrame {
	call, err := history.NewHistoryServiceClient(p.session.connection).Sync(withToken(context.Background(), p.Token))
	check(err)
	check(call.Send(&history.SyncRequest{Cursors: []*conversation.Cursor{cursor}}))
	check(call.CloseSend())
	var frames []*chat.ServerFrame
	for {
		response, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return frames
		}
		check(err)
		frames = append(frames, response.Frame)
	}
}

func textOf(event *chat.Event) string {
	return event.GetMessageSent().GetMessage().GetContent().GetText().GetText()
}

func (p *player) hello() outcome {
	p.session = p.open()
	welcome := p.session.welcome()
	heads := p.session.heads()
	p.old, p.head = heads[p.History], heads[p.Conversation]
	return outcome{"heartbeat_s": welcome.HeartbeatInterval.Seconds, "heads": len(heads)}
}

func (p *player) send() outcome {
	var numbers []int64
	for _, requestID := range []string{"first", "again"} {
		sent := &chat.Command_SendMessage{SendMessage: p.message(0)}
		command := &chat.ConnectRequest_Command{Command: &chat.Command{RequestId: requestID, Payload: sent}}
		check(p.session.call.Send(&chat.ConnectRequest{Payload: command}))
		frame := p.session.expect(func(f *chat.ServerFrame) bool { return f.GetReply() != nil })
		numbers = append(numbers, frame.GetReply().GetSendMessage().MessageNumber)
	}
	return outcome{"number": numbers[0], "again": numbers[1]}
}

func (p *player) receive() outcome {
	p.peerSends(1, 2, 3)
	for len(p.session.events) < 4 {
		p.session.expect(func(frame *chat.ServerFrame) bool { return len(frame.Events) > 0 })
	}
	texts, dense := []string{}, true
	for _, event := range p.session.events {
		texts = append(texts, textOf(event))
		p.head.Position++
		dense = dense && event.Position == p.head.Position
	}
	return outcome{"texts": texts, "dense": dense}
}

func (p *player) history() outcome {
	digest, messages, size := sha256.New(), 0, 0
	for _, frame := range p.sync(&conversation.Cursor{TopicId: p.History, Epoch: p.old.Epoch}) {
		for _, event := range frame.Events {
			if event.GetMessageSent() != nil {
				messages++
				size += len(textOf(event))
				digest.Write([]byte(textOf(event)))
			}
		}
		if caughtUp := frame.GetCaughtUp(); caughtUp != nil && !proto.Equal(caughtUp.Heads[0].Cursor, p.old) {
			panic("caught up to another head")
		}
	}
	return outcome{"messages": messages, "bytes": size, "sha256": hex.EncodeToString(digest.Sum(nil))}
}

func (p *player) deadline() outcome {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(p.DeadlineMS)*time.Millisecond)
	defer cancel()
	return outcome{"code": p.other(ctx).end().Code()}
}

func (p *player) cancel() outcome {
	other := p.other(context.Background())
	other.cancel()
	return outcome{"code": other.end().Code()}
}

func (p *player) reconnect() outcome {
	second := p.open()
	goodbye := p.session.expect(func(frame *chat.ServerFrame) bool { return frame.GetGoodbye() != nil }).GetGoodbye()
	code := p.session.end().Code()
	check(p.session.connection.Close())
	second.heads()
	check(second.connection.Close())
	p.peerSends(4, 5)
	p.session = p.open()
	head := p.session.heads()[p.Conversation]
	p.opened = time.Now()
	missed := []string{}
	for _, frame := range p.sync(p.head) {
		for _, event := range frame.Events {
			missed = append(missed, textOf(event))
		}
	}
	behind := head.Position - p.head.Position
	return outcome{"goodbye": goodbye.Reason, "code": code, "behind": behind, "missed": missed}
}

func explain(refused *status.Status) outcome {
	reason, field := "", ""
	for _, detail := range refused.Details() {
		switch known := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = known.Reason
		case *errdetails.BadRequest:
			field = known.FieldViolations[0].Field
		}
	}
	return outcome{"code": refused.Code(), "message": refused.Message(), "reason": reason, "field": field}
}

func (p *player) errors() outcome {
	noToken := newSession(context.Background(), p.session.connection, "")
	badHello := newSession(context.Background(), p.session.connection, p.Token)
	badHello.hello("no UUID")
	found := outcome{"no_token": explain(noToken.end()), "bad_hello": explain(badHello.end())}
	for _, frame := range p.sync(&conversation.Cursor{TopicId: p.Nobody, Epoch: p.head.Epoch}) {
		if rejected := frame.GetRejected(); rejected != nil {
			found["rejected"] = explain(status.FromProto(rejected.Status))
		}
	}
	return found
}

func (p *player) idle() outcome {
	heartbeat := p.session.expect(func(frame *chat.ServerFrame) bool { return frame.GetHeartbeat() != nil })
	ack := &chat.ConnectRequest_Ack{Ack: &chat.Ack{ProcessedEvents: int64(len(p.session.events))}}
	check(p.session.call.Send(&chat.ConnectRequest{Payload: ack}))
	time.Sleep(time.Until(p.opened.Add(time.Duration(p.IdleMS) * time.Millisecond)))
	p.peerSends(6)
	frame := p.session.expect(func(frame *chat.ServerFrame) bool { return len(frame.Events) > 0 })
	check(p.session.call.CloseSend())
	return outcome{"live": heartbeat.GetHeartbeat().Live, "text": textOf(frame.Events[0])}
}

func line(content map[string]any) {
	check(json.NewEncoder(os.Stdout).Encode(content))
}

func play(name string, step func() outcome) {
	began := time.Now()
	defer func() {
		if failed := recover(); failed != nil {
			line(map[string]any{"step": name, "error": fmt.Sprint(failed)})
			os.Exit(1)
		}
	}()
	result := step()
	line(map[string]any{"step": name, "outcome": result, "seconds": time.Since(began).Seconds()})
}

func main() {
	p := &player{}
	check(json.NewDecoder(os.Stdin).Decode(&p.script))
	p.unary = dial(p.Unary)
	play("hello", p.hello)
	play("send", p.send)
	play("receive", p.receive)
	play("history", p.history)
	play("deadline", p.deadline)
	play("cancel", p.cancel)
	play("reconnect", p.reconnect)
	play("errors", p.errors)
	play("idle", p.idle)
	check(p.session.connection.Close())
}
