package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/sidecar"
	"github.com/starferry/starferry/replication/batch"
)

// sidecarShapes are what goes through a sidecar.
func sidecarShapes() []shape {
	return []shape{{"", 600_000, 1000, batch.None}, {"_small", 2_000_000, 100, batch.None}}
}

// sidecarFigures are the part's figures.
func sidecarFigures() (out []Figure) {
	for _, c := range []struct{ suffix, text string }{{"", "1 KB"}, {"_small", "100 bytes"}} {
		out = append(out,
			Figure{Name: "sidecar_rps" + c.suffix, Text: "records/s through a sidecar to a service that does nothing, " + c.text, Unit: "records/s"},
			Figure{Name: "sidecar_rps" + c.suffix + "_library", Text: "records/s of the library alone, " + c.text, Unit: "records/s"},
			Figure{Name: "sidecar_rps_ratio_library" + c.suffix, Text: "that through a sidecar beside the library alone, " + c.text, Unit: "ratio"},
		)
	}
	return out
}

// throughSidecar measures how many records a second come to a service that does
// nothing, by way of a sidecar with its defaults and by the library alone, each
// in groups of its own and in turn, as contest does. The service is in this
// process too: what it takes to read requests counts.
func throughSidecar(b *bench, ctx context.Context, _ string) (Values, error) {
	p, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	out := Values{}
	for _, sh := range sidecarShapes() {
		l := Load{Topic: starferry.Topic("sidecar" + sh.suffix), Partitions: 8, Records: b.sized(sh.records, 1000), Size: sh.size, Batch: 200, Codec: sh.codec}
		if err := l.Fill(ctx, p.source.cluster); err != nil {
			return nil, err
		}
		speed := map[string][]float64{}
		for round := range contestRounds {
			for _, c := range []contestant{{"_sidecar", readSidecar}, {"_library", readOurs}} {
				perSecond, perCPU, err := b.timed(ctx, c, p.source, l, round)
				if err != nil {
					return out, fmt.Errorf("read %s by %q: %w", l.Topic, c.name, err)
				}
				b.say("%s%s: %s records/s, %s a processor second", l.Topic, c.name, number(perSecond), number(perCPU))
				speed[c.name] = append(speed[c.name], perSecond)
			}
		}
		through, alone := percentile(speed["_sidecar"], 50), percentile(speed["_library"], 50)
		out["sidecar_rps"+sh.suffix], out["sidecar_rps"+sh.suffix+"_library"] = through, alone
		out["sidecar_rps_ratio_library"+sh.suffix] = through / alone
	}
	return out, nil
}

// readSidecar reads by way of a sidecar; seen is called when a record has come to
// the service.
func readSidecar(ctx context.Context, s *side, l Load, group string, seen func()) error {
	at, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	each := []byte(`{"cluster":`) // begins each record
	service := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := bytes.NewBuffer(make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead))
		if _, err := body.ReadFrom(r.Body); err != nil && !errors.Is(err, io.EOF) {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		for range bytes.Count(body.Bytes(), each) {
			seen()
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	ended := make(chan error, 1)
	go func() { ended <- service.Serve(at) }()
	c, err := sidecar.Open(ctx, sidecar.Config{
		To: "http://" + at.Addr().String() + "/records",
		Consumer: consumer.Config{
			Group: starferry.Group(group), Topics: []starferry.Topic{l.Topic}, Start: consumer.Earliest,
			Clusters: []starferry.Cluster{{Name: s.cluster.Name(), Brokers: []string{s.address}}},
		},
	})
	if err == nil {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
		defer cancel()
		err = c.Close(late)
	}
	err = errors.Join(err, service.Close())
	if over := <-ended; !errors.Is(over, http.ErrServerClosed) {
		err = errors.Join(err, over)
	}
	return err
}
