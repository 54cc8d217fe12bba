// Package pillion is how a Go program talks to the Pillion node beside it: processes with mailboxes, names, calls, groups, topics and presence,
// on this node and on all that it is connected to.
//
//	client, err := pillion.Connect(ctx)
//	if err != nil {
//		return err
//	}
//	defer client.Close(ctx)
//	err = client.Send(ctx, "stock@store", product)
//	reply, err := pillion.Call[int](ctx, client.Process, "stock@store", []any{"count", "nike"})
//
// A [Client] keeps its connection up. When the node is restarted, it declares everything again: processes, names, served functions,
// subscriptions, groups and presence; what was lost with the connection is told by [OnReport].
//
// # Waiting
//
// Everything that waits takes a context. A deadline of a call is told to the node. When a context ends first, the error is [ErrTimeout] or
// [ErrCancelled], also by [context.DeadlineExceeded] and [context.Canceled], and its MaybeApplied says whether what was asked for may
// happen all the same.
//
// # Bodies
//
// What is sent is any value that CBOR can say: structs by their `cbor` or `json` tags, maps, slices, numbers, texts, []byte, [time.Time].
// [Bytes] sends something else, with its content type. What comes is a [Body], to decode into a type.
//
// # Loss
//
// A mailbox has a window of 256 messages that are on their way to the app; behind it the node keeps the others, up to the bounds of the mailbox.
// What it had to drop is an event of the kind [KindGap] where it was. A sender waits while more than 1 MiB is unwritten.
package pillion
