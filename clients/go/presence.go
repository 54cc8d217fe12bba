package pillion

import (
	"context"
	"iter"

	"github.com/fxamacker/cbor/v2"
)

// Present is one process that is present under a topic.
type Present struct {
	Key string `cbor:"key"`
	PID PID    `cbor:"pid"`
	// Ref is the version of what is known of it; it only goes up. Prev is the one of before, where it changed.
	Ref  uint64 `cbor:"ref"`
	Prev uint64 `cbor:"prev,omitempty"`
	// Metadata is as it was tracked: decode it by [Body.Decode] of [Present.Body].
	Metadata cbor.RawMessage `cbor:"metadata,omitempty"`
}

// Body is the metadata, to decode.
func (p Present) Body() Body { return Body{Data: p.Metadata} }

func presenceKey(topic, key string) string { return topic + " " + key }

// Track makes the process present under a topic and a key, on every node, until Untrack or its end. After a restart of the node it is present
// again. Metadata is anything of at most 4096 bytes of CBOR, or nil. [ErrTaken] when it is present there already.
func (p *Process) Track(ctx context.Context, topic, key string, metadata any) error {
	fields := []field{text("topic", topic), text("key", key)}
	appendMetadata(&fields, metadata)
	_, err := p.client.declare(ctx, &declaration{process: p, kind: declaresPresence, key: presenceKey(topic, key), op: "track", fields: fields})
	return err
}

// UpdatePresence replaces what is known of the process there. [ErrNotFound] when it is not present.
func (p *Process) UpdatePresence(ctx context.Context, topic, key string, metadata any) error {
	fields := []field{text("topic", topic), text("key", key)}
	appendMetadata(&fields, metadata)
	_, err := p.client.ask(ctx, &command{op: "update_presence", process: p, fields: fields})
	if err != nil {
		return err
	}
	c := p.client
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.declared {
		if d.process == p && d.kind == declaresPresence && d.key == presenceKey(topic, key) {
			d.fields = fields
		}
	}
	return nil
}

// Untrack makes the process present there no more. That it was not is no error.
func (p *Process) Untrack(ctx context.Context, topic, key string) error {
	_, err := p.client.ask(ctx, &command{op: "untrack", process: p, fields: []field{text("topic", topic), text("key", key)}})
	if err == nil {
		p.client.undeclare(p, declaresPresence, presenceKey(topic, key), false)
	}
	return err
}

// Presence lists who is present under a topic, in the order of their keys.
func (p *Process) Presence(ctx context.Context, topic string) ([]Present, error) {
	answer, err := p.client.ask(ctx, &command{op: "presence", fields: []field{text("topic", topic)}})
	if err != nil {
		return nil, err
	}
	return Decode[[]Present](answer.Body)
}

// Watch hears changes, in a mailbox of its own: of presence, of a group, or of nodes.
type Watch struct{ watch }

// Next takes the next event. It is false when it is over: closed, or the node leaves and all that had come was taken.
func (w *Watch) Next(ctx context.Context) (Event, bool, error) { return w.next(ctx) }

// Events takes one event after the other until it is over or ctx ends.
func (w *Watch) Events(ctx context.Context) iter.Seq2[Event, error] { return w.all(ctx) }

func (c *Client) watching(ctx context.Context, kind int, op string, fields ...field) (*Watch, error) {
	w, err := c.watch(ctx, &declaration{kind: kind, op: op, fields: fields})
	if err != nil {
		return nil, err
	}
	return &Watch{w}, nil
}

// WatchPresence hears who is present under a topic, and every change: [Event.Presence].
func (c *Client) WatchPresence(ctx context.Context, topic string) (*Watch, error) {
	return c.watching(ctx, declaresPresenceWatch, "monitor_presence", text("topic", topic))
}

// WatchGroup hears who is in a group, and every change: [Event.Group].
func (c *Client) WatchGroup(ctx context.Context, group string) (*Watch, error) {
	return c.watching(ctx, declaresGroupWatch, "monitor_group", text("group", group))
}

// WatchNodes hears which nodes come and go from now on: [Event.Node].
func (c *Client) WatchNodes(ctx context.Context) (*Watch, error) {
	return c.watching(ctx, declaresNodes, "monitor_nodes")
}
