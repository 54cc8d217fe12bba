package pillion

import (
	"context"
	"errors"
	"slices"
	"time"
)

// What is declared again after a restart of the node, in this order.
const (
	declaresFlags = iota
	declaresName
	declaresModule
	declaresGroup
	declaresSubscription
	declaresPresence
	declaresNodes
	declaresGroupWatch
	declaresPresenceWatch
)

// declaration is a command that the node has carried out, and that a new session needs again.
type declaration struct {
	process *Process
	kind    int
	key     string
	op      string
	fields  []field
}

// declare carries a command out and remembers it for a new session. One of the same process, kind and key is replaced, but groups,
// which a process may join several times.
func (c *Client) declare(ctx context.Context, d *declaration) (Answer, error) {
	cmd := command{op: d.op, process: d.process, fields: d.fields}
	answer, err := c.ask(ctx, &cmd)
	if err != nil {
		return answer, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.kind != declaresGroup {
		c.undeclareLocked(d.process, d.kind, d.key, false)
	}
	c.declared = append(c.declared, d)
	return answer, nil
}

// undeclare forgets declarations; key "" is every key.
func (c *Client) undeclare(p *Process, kind int, key string, one bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.undeclareLocked(p, kind, key, one)
}

func (c *Client) undeclareLocked(p *Process, kind int, key string, one bool) {
	found := false
	c.declared = slices.DeleteFunc(c.declared, func(d *declaration) bool {
		goes := (p == nil || d.process == p) && d.kind == kind && (key == "" || d.key == key) && !(one && found)
		found = found || goes
		return goes
	})
}

// spawn makes a process on the node. Of one that is made again the link and the monitor are gone.
func (c *Client) spawn(ctx context.Context, p *Process, ends bool) error {
	p.ends = ends
	c.mu.Lock()
	p.gen = c.gen
	c.mu.Unlock()
	cmd := command{op: "spawn", fields: p.spec.fields(), made: p}
	if by := p.spec.link; by != nil {
		cmd.process, cmd.fields = by, append(cmd.fields, yes("link"))
	}
	if by := p.spec.monitor; by != nil {
		cmd.process, cmd.by, cmd.fields = by, by, append(cmd.fields, yes("monitor"))
	}
	answer, err := c.ask(ctx, &cmd)
	if err != nil {
		return err
	}
	if by := p.spec.monitor; by != nil {
		p.ref, _ = findUint(answer.header, "ref")
	}
	if by := p.spec.link; by != nil {
		by.tie(p.PID())
		p.tie(by.PID())
	}
	return nil
}

func (s *spec) fields() []field {
	var fields []field
	if s.name != "" {
		fields = append(fields, text("name", s.name))
	}
	if s.label != "" {
		fields = append(fields, text("label", s.label))
	}
	if s.trap {
		fields = append(fields, yes("trap_exit"))
	}
	return fields
}

func (p *Process) tie(to PID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.links == nil {
		p.links = make(map[PID]bool)
	}
	p.links[to] = true
}

// gone forgets a process that has ended.
func (c *Client) gone(p *Process, reason string) {
	c.mu.Lock()
	if c.processes[p.pid] == p {
		delete(c.processes, p.pid)
	}
	c.order = slices.DeleteFunc(c.order, func(other *Process) bool { return other == p })
	c.declared = slices.DeleteFunc(c.declared, func(d *declaration) bool { return d.process == p })
	c.mu.Unlock()
	p.end(reason, nil)
	if c.finishing.Load() {
		c.poke()
	}
}

func (p *Process) generation() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gen
}

// renew is what a process goes through when its session is a new one: what it monitored and was linked with is out of reach. It is
// false when that has ended it.
func (p *Process) renew(gen uint32, loud bool) bool {
	p.mu.Lock()
	first := p.gen == 0
	p.gen, p.consumed, p.untold = gen, 0, 0
	for _, cancel := range p.open {
		if cancel != nil {
			cancel()
		}
	}
	p.open = nil
	monitors, links, trap := p.monitors, p.links, p.spec.trap
	p.monitors, p.links = make(map[uint64]PID), nil
	p.mu.Unlock()
	if first {
		return true
	}
	if len(links) > 0 && !trap && !p.own {
		p.client.gone(p, "noconnection")
		return false
	}
	if loud {
		p.synthetic(Event{Kind: KindGap, Reason: "restarted"}, map[string]any{"ev": KindGap, "lost": 0, "reason": "restarted"})
	}
	refs := make([]uint64, 0, len(monitors))
	for ref := range monitors {
		refs = append(refs, ref)
	}
	slices.Sort(refs)
	for _, ref := range refs {
		down := Event{Kind: KindDown, Ref: ref, Reason: "noconnection"}
		members := map[string]any{"ev": KindDown, "ref": ref, "from": nil, "reason": "noconnection"}
		if to := monitors[ref]; len(to) > 0 && to[0] == '<' {
			down.From, members["from"] = to, to
		} else {
			members["name"] = to
		}
		p.synthetic(down, members)
	}
	if trap {
		for to := range links {
			p.synthetic(Event{Kind: KindExit, From: to, Reason: "noconnection"},
				map[string]any{"ev": KindExit, "from": to, "reason": "noconnection"})
		}
	}
	return true
}

// synthetic puts an event into the mailbox that the node did not write.
func (p *Process) synthetic(event Event, members map[string]any) {
	if item, err := encode(members); err == nil {
		event.header = append([]byte(nil), item.data...)
		item.free()
	}
	p.push(event)
}

// declareAll makes a new session what the one before was. It is false when the connection broke meanwhile; dropped are commands left over
// that are of no use now.
func (c *Client) declareAll(l *outlet, ties []tie) (dropped int64, whole bool) {
	c.mu.Lock()
	order := append([]*Process(nil), c.order...)
	c.mu.Unlock()
	commands := make([]*again, 0, len(order))
	for _, p := range order {
		commands = append(commands, &again{process: p,
			cmd: command{op: "spawn", fields: p.spec.fields(), made: p, internal: true}})
	}
	if !c.declareThese(commands) {
		return 0, false
	}
	for _, d := range commands {
		if d.err == nil {
			continue
		}
		// Without its name it is of use all the same.
		c.tellUndeclared("spawn", d.process.spec.name, d.err)
		if !errors.Is(d.err, ErrTaken) {
			c.gone(d.process, d.err.Error())
			continue
		}
		nameless := d.process.spec
		nameless.name = ""
		d.cmd.fields = nameless.fields()
		if !c.declareThese([]*again{d}) {
			return 0, false
		}
	}
	c.mu.Lock()
	var declared []*declaration
	for _, tie := range ties {
		declared = append(declared, &declaration{kind: declaresFlags, process: tie.from, op: "link",
			fields: []field{text("to", tie.to.pid)}})
	}
	if c.Process.spec.trap {
		declared = append(declared, &declaration{kind: declaresFlags, op: "flag", fields: []field{yes("trap_exit")}})
	}
	declared = append(declared, c.declared...)
	c.mu.Unlock()
	slices.SortStableFunc(declared, func(a, b *declaration) int { return a.kind - b.kind })
	commands = commands[:0]
	for _, d := range declared {
		commands = append(commands, &again{process: d.process, key: d.key,
			cmd: command{op: d.op, fields: d.fields, process: d.process, internal: true}})
	}
	if !c.declareThese(commands) {
		return 0, false
	}
	for _, d := range commands {
		if d.err != nil {
			c.tellUndeclared(d.cmd.op, d.key, d.err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != l || c.state != declaring {
		return 0, false
	}
	c.state, c.half = up, false
	for _, tie := range ties {
		tie.from.tie(tie.to.pid)
		tie.to.tie(tie.from.pid)
	}
	dropped = c.sendAgain(l, true)
	c.change()
	return dropped, true
}

// again is one command of declaring again.
type again struct {
	process *Process
	key     string
	cmd     command
	pending *pending
	err     error
}

// declareThese writes commands, and then waits for their answers. It is false when the connection broke.
func (c *Client) declareThese(commands []*again) bool {
	for _, d := range commands {
		if d.pending, d.err = c.start(c.ctx, &d.cmd, time.Time{}, false); d.err != nil && !errors.Is(d.err, ErrNoProc) {
			return false
		}
	}
	for _, d := range commands {
		if d.err != nil {
			continue
		}
		if _, d.err = c.finish(c.ctx, d.cmd.op, d.pending, nil); errors.Is(d.err, ErrLost) || c.ctx.Err() != nil {
			return false
		}
	}
	return true
}

func (c *Client) tellUndeclared(op, to string, err error) {
	failed := Failed{Op: op, To: to, Count: 1, Message: err.Error()}
	var failure *Error
	if errors.As(err, &failure) {
		failed.Code, failed.Message = failure.Code, failure.Message
	}
	c.tellFailed(failed)
}
