package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pillion "github.com/pillion/pillion/clients/go"
)

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }

func (d *driver) acting(a *action) *pillion.Process {
	if a.Process == "" {
		return d.client.Process
	}
	return at(d, d.process, a.Process).get()
}

func (a *action) naming() []pillion.NameOption {
	if a.Scope == "global" {
		return []pillion.NameOption{pillion.Global()}
	}
	return nil
}

// run does one action.
func (d *driver) run(a *action) (any, error) {
	ctx, cancel := a.context()
	defer cancel()
	switch a.Do {
	case "connect":
		return d.connect(a)
	case "close":
		return nil, d.client.Close(ctx)
	case "gen_server":
		s := &store{driver: d, label: a.As}
		var options []pillion.SpawnOption
		if a.Name != "" {
			options = append(options, pillion.WithName(a.Name))
		}
		p, err := d.client.Start(ctx, s, options...)
		if err != nil {
			return nil, err
		}
		at(d, d.process, a.As).set(p)
		return p.PID(), nil
	case "spawn":
		return d.spawn(ctx, a)
	case "serve":
		return nil, d.serve(ctx, a)
	case "unserve":
		return nil, d.served[a.Module].Close(ctx)
	case "release":
		d.hold(a.Key) <- value(a.Value)
		return nil, nil
	case "subscribe":
		return nil, d.subscribe(ctx, a)
	case "unsubscribe":
		return nil, at(d, d.subs, a.Subscription).get().Close(ctx)
	case "watch_presence", "monitor_nodes":
		return nil, d.watch(ctx, a)
	case "reply", "raise":
		event := at(d, d.calls, a.Call).get()
		switch {
		case a.Do == "raise":
			return nil, event.Raise(ctx, &pillion.Exception{Class: a.Class, Reason: a.Reason})
		case a.More:
			return nil, event.Part(ctx, a.body())
		}
		return nil, event.Reply(ctx, a.body())
	}
	return d.act(ctx, a, d.acting(a))
}

// act does what a process does.
func (d *driver) act(ctx context.Context, a *action, p *pillion.Process) (any, error) {
	switch a.Do {
	case "request":
		members := make(map[string]any)
		for name, text := range a.Fields {
			members[name] = value(text)
		}
		var body any
		if len(a.Body) > 0 {
			body = a.body()
		}
		answer, err := p.Request(ctx, a.Op, members, body)
		if err != nil {
			return nil, err
		}
		if len(answer.Body.Data) > 0 {
			return answer.Body.Value(), nil
		}
		return answer.Members(), nil
	case "self":
		return p.PID(), nil
	case "exit":
		return nil, p.Exit(ctx, a.Reason)
	case "register":
		return nil, p.Register(ctx, a.Name, a.naming()...)
	case "unregister":
		return nil, p.Unregister(ctx, a.Name, a.naming()...)
	case "whereis":
		pid, err := p.Whereis(ctx, a.Name, a.naming()...)
		if pid == "" {
			return nil, err
		}
		return pid, err
	case "send", "cast":
		var options []pillion.SendOption
		if a.Confirm {
			options = append(options, pillion.Confirm())
		}
		if a.Do == "cast" {
			return nil, p.Cast(ctx, a.To, a.body(), options...)
		}
		return nil, p.Send(ctx, a.To, a.body(), options...)
	case "call":
		reply, err := p.Call(ctx, a.To, a.body())
		return reply.Value(), err
	case "stream":
		for part, err := range p.Stream(ctx, a.To, a.body()) {
			if err != nil || part.Last {
				return part.Value(), err
			}
			d.say(object{"saw": a.As, "part": part.Value()})
		}
		return nil, nil
	case "rpc":
		args := []any{}
		for _, arg := range a.Args {
			args = append(args, value(arg))
		}
		reply, err := p.RPC(ctx, a.Node, a.Module, a.Function, args...)
		return reply.Value(), err
	case "receive":
		event, err := p.Receive(ctx, func(event *pillion.Event) bool { return fits(event, a.Match) })
		if errors.Is(err, pillion.ErrTimeout) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		at(d, d.calls, a.As).set(event)
		return seen(&event), nil
	case "link":
		return nil, p.Link(ctx, a.To)
	case "unlink":
		return nil, p.Unlink(ctx, a.To)
	case "monitor":
		ref, err := p.Monitor(ctx, a.To)
		if err != nil {
			return nil, err
		}
		at(d, d.refs, a.As).set(ref)
		return true, nil
	case "demonitor":
		return nil, p.Demonitor(ctx, at(d, d.refs, a.Ref).get())
	case "publish":
		return d.publish(ctx, a, p)
	case "track":
		return nil, p.Track(ctx, a.Topic, a.Key, value(a.Metadata))
	case "update_presence":
		return nil, p.UpdatePresence(ctx, a.Topic, a.Key, value(a.Metadata))
	case "untrack":
		return nil, p.Untrack(ctx, a.Topic, a.Key)
	case "join":
		return nil, p.Join(ctx, a.Group)
	case "leave":
		return nil, p.Leave(ctx, a.Group)
	case "members":
		return p.Members(ctx, a.Group)
	}
	return nil, fmt.Errorf("the driver knows no action %q", a.Do)
}

func (d *driver) connect(a *action) (any, error) {
	options := []pillion.Option{
		pillion.OnDrained(func() { d.say(object{"saw": "drained"}) }),
		pillion.OnDisconnected(func(err error) { d.say(object{"saw": "disconnected", "reason": err.Error()}) }),
		pillion.OnFailed(func(f pillion.Failed) {
			d.say(object{"saw": "failed", "op": f.Op, "to": f.To, "code": f.Code, "count": f.Count})
		}),
		pillion.OnReport(func(r pillion.Report) {
			d.say(object{"saw": "report", "resumed": r.Resumed, "lost_events": r.LostEvents,
				"lost_commands": r.LostCommands, "unsure_commands": r.UnsureCommands})
		}),
	}
	if a.Name != "" {
		options = append(options, pillion.Name(a.Name))
	}
	if a.GraceMs != nil {
		options = append(options, pillion.Grace(time.Duration(*a.GraceMs)*time.Millisecond))
	}
	if a.ConnectTimeoutMs != nil {
		options = append(options, pillion.ConnectTimeout(time.Duration(*a.ConnectTimeoutMs)*time.Millisecond))
	}
	if a.Draining == "callback" {
		options = append(options, pillion.OnDraining(func(*pillion.Client) { d.say(object{"saw": "draining"}) }))
	}
	client, err := pillion.Connect(context.Background(), options...)
	if err != nil {
		return nil, err
	}
	d.client = client
	return object{"node": client.Node(), "pid": client.PID()}, nil
}

func (d *driver) spawn(ctx context.Context, a *action) (any, error) {
	var options []pillion.SpawnOption
	if a.Name != "" {
		options = append(options, pillion.WithName(a.Name))
	}
	if a.Label != "" {
		options = append(options, pillion.WithLabel(a.Label))
	}
	if a.TrapExit {
		options = append(options, pillion.TrapExit())
	}
	if a.Link {
		options = append(options, pillion.Linked(d.client.Process))
	}
	if a.Monitor {
		options = append(options, pillion.Monitored(d.client.Process))
	}
	p, err := d.client.Spawn(ctx, options...)
	if err != nil {
		return nil, err
	}
	at(d, d.process, a.As).set(p)
	return p.PID(), nil
}

func (d *driver) subscribe(ctx context.Context, a *action) error {
	var options []pillion.SubscribeOption
	if a.Group != "" {
		options = append(options, pillion.InGroup(a.Group))
	}
	if len(a.Metadata) > 0 {
		options = append(options, pillion.WithMetadata(value(a.Metadata)))
	}
	if a.Sync {
		options = append(options, pillion.Sync())
	}
	s, err := d.client.Subscribe(ctx, a.Topic, options...)
	if err != nil {
		return err
	}
	at(d, d.subs, a.As).set(s)
	d.say(object{"saw": a.As, "ready": true})
	for event, err := range s.Messages(context.Background()) {
		if err != nil {
			return err
		}
		switch event.Kind {
		case pillion.KindGap:
			d.say(object{"saw": a.As, "gap": event.Lost, "reason": event.Reason})
		case pillion.KindMessage:
			told := seen(&event)
			message := object{"topic": event.Topic, "body": told["body"]}
			for _, name := range []string{"from", "retained", "redelivered"} {
				if told[name] != nil {
					message[name] = told[name]
				}
			}
			d.say(object{"saw": a.As, "message": message})
		}
	}
	return nil
}

func (d *driver) watch(ctx context.Context, a *action) error {
	var w *pillion.Watch
	var err error
	if a.Do == "monitor_nodes" {
		w, err = d.client.WatchNodes(ctx)
	} else {
		w, err = d.client.WatchPresence(ctx, a.Topic)
	}
	if err != nil {
		return err
	}
	for event, err := range w.Events(context.Background()) {
		if err != nil {
			return err
		}
		switch event.Kind {
		case pillion.KindNodeUp, pillion.KindNodeDown:
			d.say(object{"saw": a.As, "ev": event.Kind, "node": event.Node()})
		case pillion.KindPresence:
			joins, leaves := event.Presence()
			d.say(object{"saw": a.As, "joins": keys(joins), "leaves": keys(leaves)})
		}
	}
	return nil
}

func keys(present []pillion.Present) []string {
	names := []string{}
	for _, one := range present {
		names = append(names, one.Key)
	}
	return names
}

func (d *driver) publish(ctx context.Context, a *action, p *pillion.Process) (any, error) {
	var options []pillion.PublishOption
	if a.Confirm {
		options = append(options, pillion.Confirm())
	}
	if a.Retain {
		options = append(options, pillion.Retain())
	}
	var body any
	if len(a.Body) > 0 {
		body = a.body()
	}
	if a.Report {
		reach, err := p.PublishReport(ctx, a.Topic, body, options...)
		return object{"nodes": reach.Nodes, "local": reach.Local}, err
	}
	return nil, p.Publish(ctx, a.Topic, body, options...)
}

func (d *driver) hold(key string) chan any {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.holds[key] == nil {
		d.holds[key] = make(chan any, 16)
	}
	return d.holds[key]
}

func (d *driver) serve(ctx context.Context, a *action) error {
	served, err := d.client.Serve(ctx, a.Module, pillion.Functions{
		"add":  func(a, b float64) float64 { return a + b },
		"fail": func() error { return boom() },
		"wait": func(ctx context.Context) error {
			<-ctx.Done()
			d.say(object{"saw": a.As, "cancelled": true})
			return ctx.Err()
		},
		"hold": func(ctx context.Context, key string) (any, error) {
			select {
			case value := <-d.hold(key):
				return value, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.served[a.Module] = served
	d.mu.Unlock()
	return nil
}

func boom() error { return &pillion.Exception{Class: "Boom", Reason: "it broke"} }

// store is the key-value store of the seeds, and a little more.
type store struct {
	driver *driver
	label  string
	values map[any]any
	held   pillion.From
}

func (s *store) Init(context.Context, *pillion.Process) error {
	s.values = make(map[any]any)
	return nil
}

func (s *store) HandleCall(_ context.Context, body pillion.Body, from pillion.From) (any, error) {
	ask, err := pillion.Decode[[]any](body)
	if err != nil {
		return nil, err
	}
	switch ask[0] {
	case "get":
		return s.values[ask[1]], nil
	case "hold":
		s.held = from
		return pillion.NoReply, nil
	case "stop":
		return "ok", pillion.Stop("normal")
	}
	return nil, boom()
}

func (s *store) HandleCast(ctx context.Context, body pillion.Body) error {
	ask, err := pillion.Decode[[]any](body)
	if err != nil {
		return err
	}
	switch ask[0] {
	case "set":
		s.values[ask[1]] = ask[2]
	case "delete":
		delete(s.values, ask[1])
	case "release":
		return s.held.Reply(ctx, ask[1])
	}
	return nil
}

func (s *store) HandleInfo(_ context.Context, event pillion.Event) error {
	switch event.Kind {
	case pillion.KindMessage:
		s.driver.say(object{"saw": s.label, "info": event.Body.Value()})
	case pillion.KindGap:
		s.driver.say(object{"saw": s.label, "info": object{"gap": event.Lost}})
	}
	return nil
}

func (s *store) Terminate(reason string) {
	s.driver.say(object{"saw": s.label, "terminate": reason})
}
