package pillion

// answer gives an answer to who waits for it.
func (c *Client) answer(f *frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.pending[f.id]
	if w == nil || f.id == 0 {
		return
	}
	c.sure = max(c.sure, w.plain)
	switch string(f.ev) {
	case "ok":
		c.settle(w, Answer{header: f.header, Body: Body{Data: f.body, ContentType: f.ct}}, nil)
	case "error":
		c.settle(w, Answer{}, answeredError(f))
	case "part":
		if w.streams && !w.abandoned {
			if w.unread += len(f.body) + partCost; w.unread > unreadMax {
				c.settle(w, Answer{}, &Error{Code: "overloaded", MaybeApplied: true,
					Message: "64 MiB of the answer's parts lie here, because they come faster than they are taken; no more of them are kept"})
				return
			}
			w.parts = append(w.parts, Body{Data: f.body, ContentType: f.ct})
			select {
			case w.signal <- struct{}{}:
			default:
			}
		}
	}
}

// unreadMax is how many bytes of parts that nobody takes are kept, each counted with partCost.
const (
	unreadMax = 64 << 20
	partCost  = 128
)

// answeredError reads an error answer.
func answeredError(f *frame) *Error {
	failure := &Error{Code: findText(f.header, "code"), Message: findText(f.header, "message"), Reason: f.reason,
		MaybeApplied: findTrue(f.header, "maybe_applied"), Class: findText(f.header, "class"), Stack: findText(f.header, "stack")}
	if item := find(f.header, "nodes"); item != nil {
		_ = Body{Data: item}.Decode(&failure.Nodes)
	}
	return failure
}

// processOf is whom an event is for; nil when it has ended.
func (c *Client) processOf(f *frame) *Process {
	if f.pid == "" {
		return c.Process
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.processes[f.pid]
}

// deliver puts an event into the mailbox that it is for.
func (c *Client) deliver(f *frame, kind string) {
	p := c.Process
	if f.pid != "" {
		p = c.processOf(f)
	}
	if p == nil {
		return
	}
	p.push(Event{Kind: kind, From: f.from, Body: Body{Data: f.body, ContentType: f.ct}, Topic: f.topic, Ref: f.ref, Reason: f.reason,
		Lost: int64(f.lost), Retained: f.retained, Redelivered: f.redelivered, gen: c.gen, header: f.header})
}

// cancelled says that nobody waits for the answer to a call any more; whose it was is not told.
func (c *Client) cancelled(ref uint64) {
	c.mu.Lock()
	gen, processes := c.gen, append([]*Process{c.Process}, c.order...)
	c.mu.Unlock()
	for _, p := range processes {
		p.answered(gen, ref)
	}
}
