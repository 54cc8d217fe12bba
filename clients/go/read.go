package pillion

import "time"

// read takes what the node writes until the connection breaks.
func (c *Client) read(l *outlet) error {
	if c.reporting.Load() {
		// The gap of a resume comes at once, if it comes.
		time.AfterFunc(gapWait, func() { c.settleReport() })
	}
	if l.draining {
		c.leave(l)
	}
	var f frame
	for {
		rest, err := l.reader.next()
		if err != nil {
			return err
		}
		if !f.parse(rest, &l.reader.names) {
			return errMalformed
		}
		if c.reporting.Load() && !(string(f.ev) == "gap" && f.reason == "resumed") && string(f.ev) != "ok" {
			c.settleReport()
		}
		switch string(f.ev) {
		case "ok", "error", "part":
			c.answer(&f)
		case "message":
			c.deliver(&f, KindMessage)
		case "cast":
			c.deliver(&f, KindCast)
		case "call":
			c.deliver(&f, KindCall)
		case "rpc":
			c.deliver(&f, KindRPC)
		case "cancel":
			c.cancelled(f.ref)
		case "down":
			if p := c.processOf(&f); p != nil {
				p.mu.Lock()
				delete(p.monitors, f.ref)
				p.mu.Unlock()
			}
			c.deliver(&f, KindDown)
		case "exit":
			if p := c.processOf(&f); p != nil {
				p.mu.Lock()
				delete(p.links, f.from)
				p.mu.Unlock()
			}
			c.deliver(&f, KindExit)
		case "gap":
			if f.reason == "resumed" && f.pid == "" {
				c.lostAnswers(int64(f.lost))
			}
			c.deliver(&f, KindGap)
		case "nodeup", "nodedown", "group", "presence", "name_conflict":
			c.deliver(&f, string(f.ev))
		case "died":
			if p := c.processOf(&f); p != nil && !p.own {
				c.gone(p, f.reason)
			} else if c.program.Load() != nil && f.pid == c.PID() {
				c.isOver(f.reason)
			}
		case "draining":
			c.leave(l)
		case "failed":
			c.failed(&f)
		}
	}
}
