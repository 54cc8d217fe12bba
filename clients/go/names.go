package pillion

import (
	"context"
	"time"
)

// NameOption says more about a name.
type NameOption func(*naming)

type naming struct {
	global, replace bool
	conflict, node  string
}

// Global makes it a name of the whole mesh, whose address is "global:NAME".
func Global() NameOption { return func(n *naming) { n.global = true } }

// OnConflict says who keeps a global name when two parts of a mesh meet: "keep_oldest", "keep_newest", "notify" or "kill_loser".
func OnConflict(policy string) NameOption { return func(n *naming) { n.conflict = policy } }

// Replace takes the name from whoever has it.
func Replace() NameOption { return func(n *naming) { n.replace = true } }

// On asks another node.
func On(node string) NameOption { return func(n *naming) { n.node = node } }

func (n *naming) fields(name string) []field {
	fields := []field{text("name", name)}
	if n.global {
		fields = append(fields, text("scope", "global"))
	}
	if n.conflict != "" {
		fields = append(fields, text("on_conflict", n.conflict))
	}
	if n.replace {
		fields = append(fields, yes("replace"))
	}
	if n.node != "" {
		fields = append(fields, text("node", n.node))
	}
	return fields
}

func named(name string, options []NameOption) (naming, string) {
	var n naming
	for _, option := range options {
		option(&n)
	}
	if n.global {
		return n, "global:" + name
	}
	return n, name
}

// Register gives the process a name: one of the node, or with [Global] one of the mesh. [ErrTaken] when somebody has it. After a restart of
// the node it is registered again.
func (p *Process) Register(ctx context.Context, name string, options ...NameOption) error {
	n, key := named(name, options)
	_, err := p.client.declare(ctx, &declaration{process: p, kind: declaresName, key: key, op: "register", fields: n.fields(name)})
	return err
}

// Unregister takes a name back, whoever of this client has it. [ErrBadArg] when nobody has.
func (p *Process) Unregister(ctx context.Context, name string, options ...NameOption) error {
	n, key := named(name, options)
	_, err := p.client.ask(ctx, &command{op: "unregister", fields: n.fields(name)})
	if err == nil {
		p.client.undeclare(nil, declaresName, key, false)
	}
	return err
}

// Whereis gives the pid of who has a name, on this node, the mesh ([Global]) or another node ([On]); empty when nobody has it.
func (p *Process) Whereis(ctx context.Context, name string, options ...NameOption) (PID, error) {
	n, _ := named(name, options)
	answer, err := p.client.ask(ctx, &command{op: "whereis", fields: n.fields(name)})
	return findText(answer.header, "pid"), err
}

// Join makes the process a member of a group; several times when called several times. After a restart of the node it joins again.
func (p *Process) Join(ctx context.Context, group string) error {
	_, err := p.client.declare(ctx, &declaration{process: p, kind: declaresGroup, key: group, op: "join", fields: []field{text("group", group)}})
	return err
}

// Leave takes one Join back. [ErrNotFound] when the process is not in the group.
func (p *Process) Leave(ctx context.Context, group string) error {
	_, err := p.client.ask(ctx, &command{op: "leave", process: p, fields: []field{text("group", group)}})
	if err == nil {
		p.client.undeclare(p, declaresGroup, group, true)
	}
	return err
}

// Members gives the members of a group in the whole mesh, as often as each has joined.
func (p *Process) Members(ctx context.Context, group string) ([]PID, error) {
	answer, err := p.client.ask(ctx, &command{op: "members", fields: []field{text("group", group)}})
	if err != nil {
		return nil, err
	}
	return Decode[[]PID](answer.Body)
}

// Link ties the process to another, by its pid or its name here: the end of one, but a normal one, is an exit signal to the other. One that
// is dead already, or out of reach, is heard as such a signal.
func (p *Process) Link(ctx context.Context, to PID) error {
	_, err := p.client.ask(ctx, &command{op: "link", process: p, fields: []field{text("to", to)}})
	if err == nil {
		p.tie(to)
	}
	return err
}

// Unlink takes a Link back. After it no signal of that link comes.
func (p *Process) Unlink(ctx context.Context, to PID) error {
	_, err := p.client.ask(ctx, &command{op: "unlink", process: p, fields: []field{text("to", to)}})
	if err == nil {
		p.mu.Lock()
		delete(p.links, to)
		p.mu.Unlock()
	}
	return err
}

// Monitor has the mailbox hear one down event when whoever the address leads to is gone, at once when nobody is there. It gives the Ref of
// that event.
func (p *Process) Monitor(ctx context.Context, to PID) (uint64, error) {
	answer, err := p.client.ask(ctx, &command{op: "monitor", process: p, fields: []field{text("to", to)}, by: p, what: to})
	ref, _ := findUint(answer.header, "ref")
	return ref, err
}

// Demonitor ends a monitor. No down of it is received after it.
func (p *Process) Demonitor(ctx context.Context, ref uint64) error {
	_, err := p.client.ask(ctx, &command{op: "demonitor", process: p, fields: []field{number("ref", ref), yes("flush")}})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.monitors, ref)
	for at := p.at; at < len(p.queue); at++ {
		if event := &p.queue[at]; event.Kind == KindDown && event.Ref == ref {
			p.remove(at)
			break
		}
	}
	return nil
}

// SetTrapExit turns exit signals into events, or back into the end of the process.
func (p *Process) SetTrapExit(ctx context.Context, on bool) error {
	flag := field{key: "trap_exit", kind: kindBool}
	if on {
		flag.n = 1
	}
	_, err := p.client.ask(ctx, &command{op: "flag", process: p, fields: []field{flag}})
	if err == nil {
		p.mu.Lock()
		p.spec.trap = on
		p.mu.Unlock()
	}
	return err
}

// Kill sends an exit signal. The reason "kill" cannot be trapped; others see "killed".
func (p *Process) Kill(ctx context.Context, to PID, reason string) error {
	_, err := p.client.ask(ctx, &command{op: "kill", process: p, fields: []field{text("to", to), text("reason", reason)}})
	return err
}

// Timer is a message that is sent later.
type Timer struct {
	process *Process
	ref     uint64
	gen     uint32
}

// SendAfter sends a message later, to whomever the address means then; nobody hears when it leads nowhere. Whole milliseconds, at most 366
// days. The end of the process, and a restart of the node, cancel it.
func (p *Process) SendAfter(ctx context.Context, to PID, after time.Duration, body any) (*Timer, error) {
	item, err := encode(body)
	if err != nil {
		return nil, err
	}
	defer item.free()
	gen := p.generation()
	answer, err := p.client.ask(ctx, &command{op: "send_after", process: p, body: item,
		fields: []field{text("to", to), number("after_ms", uint64(max(after.Milliseconds(), 0)))}})
	if err != nil {
		return nil, err
	}
	ref, _ := findUint(answer.header, "timer")
	return &Timer{process: p, ref: ref, gen: gen}, nil
}

// Cancel takes the message back. It gives what was left, and false when it was sent already.
func (t *Timer) Cancel(ctx context.Context) (time.Duration, bool, error) {
	return t.ask(ctx, "cancel_timer")
}

// Left gives what is left, and false when the message was sent.
func (t *Timer) Left(ctx context.Context) (time.Duration, bool, error) {
	return t.ask(ctx, "read_timer")
}

func (t *Timer) ask(ctx context.Context, op string) (time.Duration, bool, error) {
	if t.gen != t.process.generation() {
		return 0, false, nil
	}
	answer, err := t.process.client.ask(ctx, &command{op: op, process: t.process, fields: []field{number("timer", t.ref)}})
	left, ok := findUint(answer.header, "left_ms")
	return time.Duration(left) * time.Millisecond, ok, err
}
