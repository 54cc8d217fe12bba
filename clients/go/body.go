package pillion

import (
	"bytes"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// Body is what a message carries: one CBOR item, or bytes of another content type.
//
// It may share memory with what was read beside it; keep what Decode gives, or a copy of Data, rather than many bodies for long.
type Body struct {
	// Data is the item, empty when there is none.
	Data []byte
	// ContentType is empty for CBOR. With one, nobody looks into Data; at most 255 bytes.
	ContentType string
}

// Bytes makes a body that is no CBOR: these bytes, and the type that is told beside them.
func Bytes(contentType string, data []byte) Body {
	return Body{Data: data, ContentType: contentType}
}

// UnmarshalCBOR keeps an item as it is: []Body is a list whose items are decoded one by one.
func (b *Body) UnmarshalCBOR(item []byte) error {
	*b = Body{Data: bytes.Clone(item)}
	return nil
}

// MarshalCBOR is the item itself; bytes of another content type are a byte string within others.
func (b Body) MarshalCBOR() ([]byte, error) {
	switch {
	case b.ContentType != "":
		return cbor.Marshal(b.Data)
	case len(b.Data) == 0:
		return []byte{0xf6}, nil
	}
	return b.Data, nil
}

var (
	encoding = func() cbor.UserBufferEncMode {
		mode, err := cbor.EncOptions{Time: cbor.TimeRFC3339Nano, TimeTag: cbor.EncTagRequired}.UserBufferEncMode()
		if err != nil {
			panic(err)
		}
		return mode
	}()
	decoding = decMode(reflect.TypeOf(map[string]any(nil)))
	anyKeys  = decMode(nil)
)

func decMode(maps reflect.Type) cbor.DecMode {
	options := cbor.DecOptions{IntDec: cbor.IntDecConvertSignedOrBigInt, BigIntDec: cbor.BigIntDecodePointer, MaxNestedLevels: 512,
		MaxArrayElements: 1 << 27, MaxMapPairs: 1 << 27, DefaultMapType: maps}
	mode, err := options.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}

// Decode puts the body into what out points to. Structs have their fields by `cbor` or `json` tags, or by name. Without a body
// nothing is changed. A body that has a content type fits into *[]byte and *string only. One that is nested deeper than 512
// is not decoded.
//
// The error is [ErrBadArg], with the one of the CBOR library inside.
func (b Body) Decode(out any) error {
	if b.ContentType != "" {
		switch out := out.(type) {
		case *[]byte:
			*out = bytes.Clone(b.Data)
		case *string:
			*out = string(b.Data)
		case *any:
			*out = bytes.Clone(b.Data)
		case *Body:
			*out = b
		default:
			return newError("badarg", "the body is %q, no CBOR, and does not fit into a %T", b.ContentType, out)
		}
		return nil
	}
	if to, ok := out.(*Body); ok {
		*to = b
		return nil
	}
	if len(b.Data) == 0 {
		return nil
	}
	err := decoding.Unmarshal(b.Data, out)
	if err != nil && wantsAny(out) {
		err = anyKeys.Unmarshal(b.Data, out)
	}
	if err != nil {
		failure := newError("badarg", "the body does not fit into a %T: %v", out, err)
		failure.cause = err
		return failure
	}
	return nil
}

// wantsAny says whether maps of any keys may be asked for.
func wantsAny(out any) bool {
	switch out.(type) {
	case *any, *[]any, *map[string]any:
		return true
	}
	return false
}

// Value is the body as plain values: nil, bool, int64 or *big.Int, float64, string, []byte, []any, map[string]any (map[any]any
// where keys are no texts). A body of another content type is []byte; one that is no good CBOR is nil.
func (b Body) Value() any {
	var value any
	if b.Decode(&value) != nil {
		return nil
	}
	return value
}

// Decode gives the body as a T.
func Decode[T any](b Body) (T, error) {
	var value T
	err := b.Decode(&value)
	return value, err
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encoded is a body on its way out. Free gives its buffer back; the bytes count no more then.
type encoded struct {
	data   []byte
	ct     string
	buffer *bytes.Buffer
}

func encode(body any) (encoded, error) {
	switch body := body.(type) {
	case Body:
		return encoded{data: body.Data, ct: body.ContentType}, nil
	case *Body:
		return encoded{data: body.Data, ct: body.ContentType}, nil
	case cbor.RawMessage:
		return encoded{data: body}, nil
	}
	buffer := buffers.Get().(*bytes.Buffer)
	buffer.Reset()
	if err := encoding.MarshalToBuffer(body, buffer); err != nil {
		buffers.Put(buffer)
		failure := newError("badarg", "a %T cannot be sent: %v", body, err)
		failure.cause = err
		return encoded{}, failure
	}
	return encoded{data: buffer.Bytes(), buffer: buffer}, nil
}

func (e encoded) free() {
	if e.buffer != nil && e.buffer.Cap() <= 64*1024 {
		buffers.Put(e.buffer)
	}
}
