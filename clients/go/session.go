package pillion

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// What a client is doing.
const (
	connecting = iota // no session, or none that a connection has
	declaring         // a session that is new: what was declared before is declared again
	up
	drained
	closed
)

const (
	firstDelay = 10 * time.Millisecond
	lastDelay  = time.Second
	greetWait  = 10 * time.Second
	// gapWait is how long a report waits for the gap that may follow a resume.
	gapWait = 100 * time.Millisecond
)

var errLeaving = errors.New("the node is about to leave")

// open finds the socket and connects to it.
func (c *Client) open(ctx context.Context) (net.Conn, error) {
	path := c.options.socket
	if path == "" {
		path = os.Getenv("PILLION_SOCKET")
	}
	var dialer net.Dialer
	if path == "" {
		if c.found != "" && c.leaving == "" {
			if conn, err := dialer.DialContext(ctx, "unix", c.found); err == nil {
				return conn, nil
			}
		}
		found, err := findSocket(c.leaving)
		if err != nil && c.leaving != "" {
			found, err = c.leaving, nil
		}
		if err != nil {
			return nil, err
		}
		path = found
	}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		c.found = path
		return conn, nil
	}
	return nil, notConnected(path, err)
}

// notConnected says why a socket does not answer, and what to do. What may change by itself is [ErrUnreachable], and tried again.
func notConnected(path string, err error) *Error {
	code, what := "unreachable", fmt.Sprintf("nobody answers at %s: %v; start a node there with `pillion up --socket %s`", path, err, path)
	info, missing := os.Stat(path)
	switch {
	case errors.Is(err, syscall.EINVAL):
		code, what = "badarg", fmt.Sprintf("%s is no path for a socket: it has %d bytes, of at most 107; name a shorter one", path, len(path))
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		what = fmt.Sprintf("this user may not connect to %s: %v; run as the user of the node, or let this one write to the socket", path, err)
	case missing == nil && info.Mode()&fs.ModeSocket == 0:
		what = fmt.Sprintf("%s is no socket: %v; name the socket of a node by PILLION_SOCKET", path, err)
	}
	failure := newError(code, "%s", what)
	failure.cause = err
	return failure
}

// establish connects and introduces the app, once.
func (c *Client) establish(ctx context.Context) (*outlet, error) {
	conn, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	l := newOutlet(conn)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l.deadline(greetWait)
	err = c.greet(l)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	l.deadline(0)
	c.tasks.Add(1)
	go c.write(l)
	return l, nil
}

// greet says hello: to take the session up again, else for a new one.
func (c *Client) greet(l *outlet) error {
	if c.session != 0 {
		resume, err := encode(map[string]any{"session": c.session, "secret": c.secret, "seen": c.seen})
		if err != nil {
			return err
		}
		welcome, err := c.hello(l, raw("resume", resume.data))
		switch {
		case err == nil && c.takeHalf():
			// It was declared by half: it goes, and the next one is declared whole.
			c.session = 0
			c.farewell(l)
			return errors.New("the session was half declared")
		case err == nil:
			return c.resumed(l, &welcome)
		case !errors.Is(err, ErrNotFound) || c.isHosted():
			return err
		}
		c.session = 0
	}
	delivery, _ := encode(map[string]any{"window": window})
	fields := []field{text("client", c.options.name), raw("delivery", delivery.data)}
	if grace := c.options.grace.Milliseconds(); grace > 0 {
		fields = append(fields, number("grace_ms", uint64(grace)))
	}
	if process := c.hosted; process != "" {
		fields = append(fields, text("process", process))
	}
	welcome, err := c.hello(l, fields...)
	if err != nil {
		return err
	}
	c.hosted = ""
	if l.draining && c.leaving != "" {
		c.farewell(l)
		return errLeaving
	}
	return c.renewed(l, &welcome)
}

// farewell ends a session that has just begun, and waits until the node has closed the connection.
func (c *Client) farewell(l *outlet) {
	c.lastID++
	_, _ = l.conn.Write(appendFrame(nil, &command{op: "bye"}, c.lastID, ""))
	var f frame
	for rest, err := l.reader.next(); err == nil; rest, err = l.reader.next() {
		if !f.parse(rest, &l.reader.names) || f.id == c.lastID {
			return
		}
	}
}

// takeHalf says, once, that the session was not declared to the end.
func (c *Client) takeHalf() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	half := c.half
	c.half = false
	return half
}

// hello writes one and waits for its welcome.
func (c *Client) hello(l *outlet, fields ...field) (frame, error) {
	c.lastID++
	id := c.lastID
	cmd := command{op: "hello", fields: append([]field{number("version", 1)}, fields...)}
	if _, err := l.conn.Write(appendFrame(nil, &cmd, id, "")); err != nil {
		return frame{}, err
	}
	for {
		rest, err := l.reader.next()
		if err != nil {
			return frame{}, fmt.Errorf("the node at %s does not answer: %w", c.found, err)
		}
		var f frame
		if !f.parse(rest, &l.reader.names) {
			return frame{}, errMalformed
		}
		switch string(f.ev) {
		case "welcome":
			return f, nil
		case "draining":
			l.draining = true
		case "error":
			return frame{}, answeredError(&f)
		case "failed":
			if findText(f.header, "op") == "hello" {
				return frame{}, answeredError(&f)
			}
		}
	}
}

// resumed goes on with a session that lives.
func (c *Client) resumed(l *outlet, welcome *frame) error {
	commands, _ := findUint(welcome.header, "commands")
	carried := commands - 1
	c.mu.Lock()
	if c.state == closed {
		c.mu.Unlock()
		return errClosed()
	}
	if c.leftFrom != 0 {
		c.seq = c.leftFrom - 1
	}
	lost := int64(c.seq) - int64(carried)
	anyLost := lost > 0
	for _, w := range c.pending {
		if w.seq > carried && w.seq <= c.seq {
			lost--
			c.settle(w, Answer{}, errLost(false))
		}
	}
	for _, seq := range c.mores {
		if seq > carried && seq <= c.seq {
			lost--
		}
	}
	c.mores = c.mores[:0]
	c.seq = commands
	c.resumedAt = carried
	l.taken = commands
	c.sendAgain(l, false)
	c.link, c.state = l, up
	processes := append([]*Process{c.Process}, c.order...)
	c.report = &Report{Resumed: true, LostCommands: max(lost, 0)}
	c.reporting.Store(true)
	c.change()
	c.mu.Unlock()
	for _, p := range processes {
		c.tellAgain(p, anyLost)
	}
	return nil
}

// tellAgain says what was consumed while there was no connection; after a loss all that was given counts as consumed, because nobody
// knows of which process it was.
func (c *Client) tellAgain(p *Process, lost bool) {
	p.mu.Lock()
	n, gen := p.consumed+p.untold, p.gen
	p.consumed, p.untold = 0, 0
	p.mu.Unlock()
	if lost {
		n = window
	}
	if n > 0 {
		p.more(n, gen)
	}
}

// renewed goes on with a new session.
func (c *Client) renewed(l *outlet, welcome *frame) error {
	quiet := c.leaving != ""
	c.revive = c.revive || quiet
	revive := c.revive
	c.session, _ = findUint(welcome.header, "session")
	c.secret = findText(welcome.header, "secret")
	c.seen = 0
	commands, _ := findUint(welcome.header, "commands")
	c.mu.Lock()
	if c.state == closed {
		c.mu.Unlock()
		return errClosed()
	}
	again := c.gen > 0
	report := Report{UnsureCommands: int64(c.plain-c.sure) + c.owed - plainOf(c.left)}
	for _, w := range c.pending {
		if c.leftFrom == 0 || w.seq < c.leftFrom || w.internal {
			c.settle(w, Answer{}, errLost(true))
		}
	}
	c.gen++
	c.seq, c.plain, c.sure, c.mores = commands, 0, 0, c.mores[:0]
	l.taken = commands
	c.node = findText(welcome.header, "node")
	ties := c.ties()
	c.Process.pid = welcome.pid
	clear(c.processes)
	c.link, c.leaving = l, ""
	c.finishing.Store(false)
	c.state = up
	if again {
		c.state, c.half = declaring, true
	}
	gen, order := c.gen, append([]*Process(nil), c.order...)
	c.change()
	c.mu.Unlock()
	c.Process.renew(gen, !quiet)
	if !again {
		return nil
	}
	for _, p := range order {
		p.renew(gen, !quiet)
	}
	ties = c.untied(ties)
	c.tasks.Add(1)
	go func() {
		defer c.tasks.Done()
		dropped, whole := c.declareAll(l, ties)
		report.UnsureCommands += dropped
		c.mu.Lock()
		c.owed = 0
		if !whole {
			c.owed = report.UnsureCommands
		}
		order := append([]*Process(nil), c.order...)
		c.mu.Unlock()
		if whole && revive {
			for _, p := range order {
				if p.serves != nil {
					p.serves.revive()
				}
			}
		}
		if whole && !quiet {
			c.tellReport(report)
		}
	}()
	return nil
}

// run reads for as long as the client lives.
func (c *Client) run(l *outlet) {
	defer c.tasks.Done()
	for l != nil {
		err := c.read(l)
		if err == errMalformed {
			c.log.Error("a frame of the node cannot be read; connecting anew")
		}
		c.end(l)
		c.seen += l.reader.frames
		c.settleReport()
		left, from := c.leftover(l)
		c.mu.Lock()
		if from > 0 && c.leftFrom == 0 {
			c.left, c.leftFrom = left, from
		}
		if !c.half {
			c.revive = false
		}
		ends := c.state == closed || c.leaves
		finished := c.finishing.Load()
		if !ends {
			c.state = connecting
		}
		c.mu.Unlock()
		if ends {
			return
		}
		if finished {
			c.isDrained()
		} else if f := c.options.disconnected; f != nil {
			c.note(func() { f(err) })
		}
		l = c.reconnect()
	}
}

// reconnect tries until there is a session again; nil when the client is closed.
func (c *Client) reconnect() *outlet {
	delay, warned := firstDelay, false
	for {
		l, err := c.establish(c.ctx)
		if err == nil {
			return l
		}
		if c.ctx.Err() != nil {
			return nil
		}
		if c.isHosted() {
			// Its node is gone, and this run of it with that.
			c.isOver("noconnection")
			return nil
		}
		if !warned && (errors.Is(err, ErrDenied) || errors.Is(err, ErrUnsupported)) {
			c.log.Warn("the node refuses this app; trying on", "error", err)
			warned = true
		}
		wait := delay
		if c.leaving != "" {
			wait = lastDelay
		}
		delay = min(2*delay, lastDelay)
		c.expire(wait)
		if c.ctx.Err() != nil {
			return nil
		}
	}
}
