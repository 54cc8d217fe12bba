package pillion

import (
	"context"
	"fmt"
	"strings"
)

// PID names a process anywhere in the mesh, such as "<stock@hal.019b3f0c2a4e5f3c.100>". Never a second process has it. It is a
// text and may be sent in bodies.
//
// Wherever an address is asked for, a PID is one; so are the name of a process here ("stock"), one on another node
// ("stock@store@io"; "stock@store" for a node of this host), "global:stock", and "group:tills".
type PID = string

// Kinds of events.
const (
	KindMessage      = "message"       // From, Body; Topic where it was published
	KindCast         = "cast"          // From, Body
	KindCall         = "call"          // From, Body: answer it by Reply, Part or Raise
	KindRPC          = "rpc"           // From, Body, Function: answer it likewise
	KindDown         = "down"          // Ref, From or Name, Reason: a monitored process is gone
	KindExit         = "exit"          // From, Reason: an exit signal, where exits are trapped
	KindGap          = "gap"           // Lost, Reason: messages are missing here
	KindNodeUp       = "nodeup"        // Node
	KindNodeDown     = "nodedown"      // Node, Reason
	KindGroup        = "group"         // Members
	KindPresence     = "presence"      // Presence
	KindNameConflict = "name_conflict" // Name, Winner
)

// Event is what lies in a mailbox.
type Event struct {
	// Kind says which of the other members count: one of the Kind constants, or one that a newer node has.
	Kind string
	// From is the sender; the process that is gone, of a down or exit, empty when no pid is known.
	From PID
	// Body is what was said.
	Body Body
	// Topic is where it was published; empty for what was sent. Of presence the topic watched.
	Topic string
	// Ref is that of the monitor, of a down.
	Ref uint64
	// Reason says why: of down, exit, gap and nodedown.
	Reason string
	// Lost counts the messages that are missing; 0 of a gap with the reason "restarted", when nobody knows.
	Lost int64
	// Retained says that the value was kept before its reader subscribed.
	Retained bool
	// Redelivered says that another member of the queue group had it before and did not take it.
	Redelivered bool

	gen     uint32
	header  []byte
	process *Process
}

// counted says whether an event counts against the window of its mailbox.
func (e *Event) counted() bool {
	switch e.Kind {
	case KindMessage, KindCast, KindCall, KindRPC:
		return true
	}
	return false
}

// Member decodes a member of the event by the name that it has in docs/protocol.md; false when it is not there or is something else.
func (e *Event) Member(name string, out any) bool {
	return member(e.header, e.Body, name, out)
}

// member decodes one of a header, or the one that is the body.
func member(header []byte, body Body, name string, out any) bool {
	item := find(header, name)
	if item == nil && findText(header, "as") == name {
		item = body.Data
	}
	return item != nil && Body{Data: item}.Decode(out) == nil
}

// Members are all members of the event but its body, as plain values.
func (e *Event) Members() map[string]any {
	var members map[string]any
	_ = Body{Data: e.header}.Decode(&members)
	delete(members, "pid")
	if as, ok := members["as"].(string); ok {
		delete(members, "as")
		members[as] = e.Body.Value()
	}
	return members
}

// Name is the address of a monitor by name, or the name in a conflict.
func (e *Event) Name() string { return findText(e.header, "name") }

// Node is the node that came or went.
func (e *Event) Node() string { return findText(e.header, "node") }

// Function is what an rpc wants called.
func (e *Event) Function() string { return findText(e.header, "function") }

// Module is where an rpc wants it called.
func (e *Event) Module() string { return findText(e.header, "module") }

// Winner is who has the name now, of a name_conflict; empty when nobody has.
func (e *Event) Winner() PID { return findText(e.header, "winner") }

// Joined and left say how a group has changed. The first event has all who are there.
func (e *Event) Group() (joined, left []PID) {
	e.Member("joined", &joined)
	e.Member("left", &left)
	return joined, left
}

// Presence says who came and who went. One who stays and changes is in both.
func (e *Event) Presence() (joins, leaves []Present) {
	e.Member("joins", &joins)
	e.Member("leaves", &leaves)
	return joins, leaves
}

// Decode puts the body into what out points to: [Body.Decode].
func (e *Event) Decode(out any) error { return e.Body.Decode(out) }

func (e *Event) String() string {
	var text strings.Builder
	text.WriteString(e.Kind)
	if e.From != "" {
		text.WriteString(" from " + e.From)
	}
	if e.Reason != "" {
		text.WriteString(": " + e.Reason)
	}
	if len(e.Body.Data) > 0 {
		fmt.Fprintf(&text, " %v", e.Body.Value())
	}
	return text.String()
}

// Reply answers a call or an rpc. Whoever was too late or was answered already hears of no error: nobody can know.
//
// [ErrLost] when the connection that the call came by is gone; ctx ends the wait for room in the buffer and for a connection, and
// then the call is not answered.
func (e *Event) Reply(ctx context.Context, body any) error { return e.reply(ctx, body, false) }

// Part answers a part of a call; others follow, and the last of them is the Reply. It returns when there is room for it: a callee
// may be 1 MiB ahead of what its caller has read.
func (e *Event) Part(ctx context.Context, body any) error { return e.reply(ctx, body, true) }

func (e *Event) reply(ctx context.Context, body any, more bool) error {
	ref, ok := e.answerable()
	if !ok {
		return nil
	}
	item, err := encode(body)
	if err != nil {
		return err
	}
	defer item.free()
	cmd := command{op: "reply", process: e.process, body: item, gen: e.gen}
	if more {
		cmd.fields = []field{number("ref", ref), yes("more")}
		_, err := e.process.client.ask(ctx, &cmd)
		return err
	}
	cmd.fields = []field{number("ref", ref)}
	err = e.process.client.tell(ctx, &cmd)
	e.process.answered(e.gen, ref)
	return err
}

// Raise answers a call or an rpc with an error: the caller gets [ErrException] with its class, reason and stack, or [ErrUndef] where
// the class is "undef". Errors as of Reply.
func (e *Event) Raise(ctx context.Context, failure error) error {
	ref, ok := e.answerable()
	if !ok {
		return nil
	}
	exception := raised(failure)
	fields := append(make([]field, 0, 4), number("ref", ref))
	if exception.Class != "" {
		fields = append(fields, text("class", cut(exception.Class, 255)))
	}
	if exception.Reason != "" {
		fields = append(fields, text("reason", cut(exception.Reason, stackMax)))
	}
	if stack := exception.Stack; stack != "" {
		if len(stack) > stackMax {
			stack = strings.ToValidUTF8(stack[len(stack)-stackMax:], "")
		}
		fields = append(fields, text("stack", stack))
	}
	err := e.process.client.tell(ctx, &command{op: "raise", process: e.process, gen: e.gen, fields: fields})
	e.process.answered(e.gen, ref)
	return err
}

func (e *Event) answerable() (uint64, bool) {
	if e.process == nil || (e.Kind != KindCall && e.Kind != KindRPC) {
		return 0, false
	}
	// Who was told that nobody waits says nothing more.
	e.process.mu.Lock()
	defer e.process.mu.Unlock()
	_, waits := e.process.open[e.Ref]
	return e.Ref, waits || e.gen != e.process.gen
}
