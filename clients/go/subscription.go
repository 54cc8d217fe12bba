package pillion

import (
	"context"
	"errors"
	"iter"
)

// errOver is the end of an iterator that is none of an error: it was closed, or the node leaves.
var errOver = errors.New("pillion: nothing more comes")

// SubscribeOption says more about a subscription.
type SubscribeOption func(*[]field)

// InGroup makes it a member of a queue group: of all members of one group in the mesh, one gets each message.
func InGroup(group string) SubscribeOption {
	return func(fields *[]field) { *fields = append(*fields, text("group", group)) }
}

// WithMetadata is shown to who lists subscribers: anything of at most 1024 bytes of CBOR.
func WithMetadata(metadata any) SubscribeOption {
	return func(fields *[]field) { appendMetadata(fields, metadata) }
}

// Sync waits until every connected node knows of the subscription, so that whatever is published anywhere after it arrives. [ErrTimeout] with
// Nodes when one does not confirm.
func Sync() SubscribeOption { return func(fields *[]field) { *fields = append(*fields, yes("sync")) } }

func appendMetadata(fields *[]field, metadata any) {
	if metadata == nil {
		return
	}
	if item, err := encode(metadata); err == nil {
		*fields = append(*fields, raw("metadata", append([]byte(nil), item.data...)))
		item.free()
	} else {
		// What cannot be written is refused by the node, in words.
		*fields = append(*fields, raw("metadata", []byte{0xf7}))
	}
}

// watch is a process that only one iterator takes from.
type watch struct{ process *Process }

func (c *Client) watch(ctx context.Context, d *declaration) (watch, error) {
	p := newProcess(c)
	if err := c.spawn(ctx, p, true); err != nil {
		return watch{}, err
	}
	d.process = p
	if _, err := c.declare(ctx, d); err != nil {
		p.drop("normal")
		return watch{}, err
	}
	return watch{p}, nil
}

// Close ends it, also when ctx has ended. What waits in its mailbox is gone. Who only stops to take from it, or lets go of it, has not
// closed it: the node goes on to hold messages for it.
func (w watch) Close(ctx context.Context) error {
	select {
	case <-w.process.done:
		return nil
	default:
	}
	w.process.finish()
	err := w.process.Exit(ctx, "")
	if errors.Is(err, ErrNoProc) || errors.Is(err, ErrClosed) || errors.Is(err, ErrLost) {
		err = nil
	}
	// With a ctx that has ended, too, nothing of it stays at the node.
	w.process.drop("normal")
	return err
}

// Process is who hears what is watched.
func (w watch) Process() *Process { return w.process }

// Next takes the next event; false when it is over: closed, or the node leaves and all that had come was taken. Errors as of
// [Process.Receive]; none when it is over.
func (w watch) next(ctx context.Context) (Event, bool, error) {
	event, err := w.process.Receive(ctx)
	if err == errOver || (err != nil && w.process.isOver()) {
		return Event{}, false, nil
	}
	return event, err == nil, err
}

func (p *Process) isOver() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// all iterates until it is over or ctx ends; only what else ends it is an error.
func (w watch) all(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, more, err := w.next(ctx)
			if err != nil && ctx.Err() != nil {
				return
			}
			if !more && err == nil {
				return
			}
			if !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Subscription is what is published to a topic, in a mailbox of its own.
type Subscription struct{ watch }

// Subscribe hears what is published to a topic from now on; segments may be wildcards, "shop.*" or "shop.>". After a restart of the node it
// subscribes again, and its mailbox has a gap event with the reason "restarted".
func (c *Client) Subscribe(ctx context.Context, topic string, options ...SubscribeOption) (*Subscription, error) {
	fields := []field{text("topic", topic)}
	for _, option := range options {
		option(&fields)
	}
	w, err := c.watch(ctx, &declaration{kind: declaresSubscription, key: topic, op: "subscribe", fields: fields})
	if err != nil {
		return nil, err
	}
	return &Subscription{w}, nil
}

// Next takes the next event: a message, or a gap where messages are missing. It is false when it is over: closed, or the node leaves and all
// that had come was taken.
func (s *Subscription) Next(ctx context.Context) (Event, bool, error) { return s.next(ctx) }

// Messages takes one event after the other until it is over or ctx ends.
//
//	for event, err := range subscription.Messages(ctx) {
func (s *Subscription) Messages(ctx context.Context) iter.Seq2[Event, error] { return s.all(ctx) }

// PublishOption is a [SendOption] or says more of what is published.
type PublishOption = SendOption

// Retain keeps the message as the last value of its topic: whoever subscribes later gets it. A nil body clears it.
func Retain() PublishOption { return func(s *sending) { s.retain = true } }

// Local publishes to this node only.
func Local() PublishOption { return func(s *sending) { s.local = true } }

// ExcludeSelf leaves out the subscriptions of the process that publishes.
func ExcludeSelf() PublishOption { return func(s *sending) { s.exclude = true } }

// Publish says something to whoever subscribes to the topic. It returns as [Process.Send] does.
func (p *Process) Publish(ctx context.Context, topic string, body any, options ...PublishOption) error {
	var how sending
	for _, option := range options {
		option(&how)
	}
	cmd, item, err := p.publication(topic, body, &how)
	if err != nil {
		return err
	}
	defer item.free()
	if how.confirm {
		_, err = p.client.ask(ctx, &cmd)
		return err
	}
	return p.client.tell(ctx, &cmd)
}

// Reach is whom a publication reached.
type Reach struct {
	// Nodes is to how many other nodes it went, Local how many subscriptions of this node got it.
	Nodes, Local int64
}

// PublishReport is Publish that says whom it reached.
func (p *Process) PublishReport(ctx context.Context, topic string, body any, options ...PublishOption) (Reach, error) {
	var how sending
	for _, option := range options {
		option(&how)
	}
	cmd, item, err := p.publication(topic, body, &how)
	if err != nil {
		return Reach{}, err
	}
	defer item.free()
	cmd.fields = append(cmd.fields, yes("report"))
	answer, err := p.client.ask(ctx, &cmd)
	nodes, _ := findUint(answer.header, "nodes")
	local, _ := findUint(answer.header, "local")
	return Reach{int64(nodes), int64(local)}, err
}

func (p *Process) publication(topic string, body any, how *sending) (command, encoded, error) {
	fields := append(make([]field, 0, 6), text("topic", topic))
	if how.mode != "" {
		fields = append(fields, text("mode", how.mode))
	}
	if how.retain {
		fields = append(fields, yes("retain"))
	}
	if how.exclude {
		fields = append(fields, yes("exclude"))
	}
	if how.local {
		fields = append(fields, text("scope", "local"))
	}
	var item encoded
	if body != nil || !how.retain {
		var err error
		if item, err = encode(body); err != nil {
			return command{}, item, err
		}
	}
	return command{op: "publish", process: p, fields: fields, body: item}, item, nil
}
