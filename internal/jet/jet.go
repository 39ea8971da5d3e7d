// Package jet opens the streams and key-value buckets of JetStream that
// starferry keeps its state in, and makes them where they are missing.
//
// Several processes do so at the same moment, and any of it may be emptied while
// they run. A server that is still clearing away an old stream of the same name,
// or making it for somebody else, can only fail: it is asked again for as long
// as such a thing may take.
package jet

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// within bounds how long a server may be busy with a stream of the same name.
const within = 5 * time.Second

// KeyValue opens a bucket, or makes it. A bucket that is there stays as it is.
func KeyValue(ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	return open(ctx, func(ctx context.Context) (jetstream.KeyValue, error) {
		kv, err := js.KeyValue(ctx, cfg.Bucket)
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			kv, err = js.CreateKeyValue(ctx, cfg)
		}
		return kv, err
	})
}

// Stream opens a stream, or makes it. A stream that is there stays as it is.
func Stream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	return open(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		s, err := js.Stream(ctx, cfg.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			s, err = js.CreateStream(ctx, cfg)
		}
		return s, err
	})
}

func open[T any](ctx context.Context, try func(context.Context) (T, error)) (T, error) {
	patience := time.NewTimer(within)
	defer patience.Stop()
	for {
		v, err := try(ctx)
		if err == nil || !passing(err) {
			return v, err
		}
		again := time.NewTimer(20 * time.Millisecond)
		select {
		case <-again.C:
		case <-patience.C:
			again.Stop()
			return v, err
		case <-ctx.Done():
			again.Stop()
			return v, err
		}
	}
}

// passing reports whether the same request may succeed in a moment: somebody
// else was faster, or the server failed at it (code 500, such as
// JSStreamStoreFailed, 10049).
func passing(err error) bool {
	if errors.Is(err, jetstream.ErrBucketExists) || errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return true
	}
	var refused *jetstream.APIError
	return errors.As(err, &refused) && refused.Code == 500
}

// ObjectStore opens an object store, or makes it. One that is there stays as it is.
func ObjectStore(ctx context.Context, js jetstream.JetStream, cfg jetstream.ObjectStoreConfig) (jetstream.ObjectStore, error) {
	return open(ctx, func(ctx context.Context) (jetstream.ObjectStore, error) {
		s, err := js.ObjectStore(ctx, cfg.Bucket)
		if errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
			s, err = js.CreateObjectStore(ctx, cfg)
		}
		return s, err
	})
}
