package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/agent/config"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/control/sidecar"
	"github.com/starferry/starferry/scripting"
)

// sidecarFlags are what a sidecar is told on the command line; clusters, NATS and
// homes are in the configuration.
type sidecarFlags struct {
	sidecar.Config
	topics, retries, produce []string
	labels                   map[string]string
	grace                    time.Duration
}

func (c *cli) sidecarCommand() *cobra.Command {
	var f sidecarFlags
	cmd := &cobra.Command{
		Use: "sidecar --group GROUP --topic TOPIC --to URL", GroupID: "serve", Short: "consume for a service in any language, over HTTP",
		Long: `Sidecar is a member of a group whose records a service beside it handles: it
posts them as JSON to --to, in batches, and reads in the answer what became of
them. So a service in any language follows switches, and skips, throttles and
the like reach it.

2xx means handled; a body may name records that are not. 4xx: they are wrong.
429 and 503: not now. Anything else: again, after a pause. The service asks the
sidecar at --listen for /health, /state and /metrics, and has records produced
by POST /produce/TOPIC. It runs without NATS, and follows orders when it is there.

docs/sidecar.md explains it; examples/python is a service.`,
		Example: `  starferry sidecar --group billing --topic orders --to http://127.0.0.1:8080/records
  starferry sidecar --group billing --topic orders --to http://127.0.0.1:8080/records \
    --order key --encoding json --attempts 5 --retry billing.retry-1m=1m --dead-letter billing.dead`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.runSidecar(cmd.Context(), f) },
	}
	f.add(cmd)
	return cmd
}

func (f *sidecarFlags) add(cmd *cobra.Command) {
	flags, k := cmd.Flags(), &f.Consumer
	flags.StringVar((*string)(&k.Group), "group", "", "the consumer `GROUP`")
	flags.StringSliceVar(&f.topics, "topic", nil, "a `TOPIC` it reads; may be repeated")
	flags.StringVar(&f.To, "to", "", "`URL` that records are posted to")
	flags.StringVar((*string)(&f.Order), "order", string(sidecar.ByPartition), "what stays in order: partition, or key")
	flags.StringVar((*string)(&f.Encoding), "encoding", string(sidecar.Base64), "how keys and values stand in JSON: base64, text, or json")
	flags.StringVar(&f.Listen, "listen", "127.0.0.1:8090", "`HOST:PORT` where the service asks the sidecar; empty: nowhere")
	flags.StringSliceVar(&f.produce, "produce", nil, "a `TOPIC` that the service may have records produced to; may be repeated")
	flags.BoolVar(&f.Beyond, "beyond-this-machine", false, "let --to and --listen be on other machines; nobody is asked who he is")
	flags.IntVar(&k.BatchMax, "batch", sidecar.MaxBatch, fmt.Sprintf("records in a request at most, up to %d", sidecar.MaxBatch))
	flags.IntVar(&f.Requests, "requests", 16, "requests at once")
	flags.IntVar(&k.Parallelism, "parallelism", 0, "with --order key: records of a partition under way at once (default 16)")
	flags.DurationVar(&f.Timeout, "timeout", 30*time.Second, "how long the service may take to answer")
	flags.IntVar(&k.Failure.Attempts, "attempts", 0, "how often a record is tried before it is put aside; 0: for ever")
	flags.StringSliceVar(&f.retries, "retry", nil, "a retry topic and its pause, `TOPIC=PAUSE`; may be repeated")
	flags.StringVar((*string)(&k.Failure.DeadLetter), "dead-letter", "", "`TOPIC` for records that are refused or given up")
	flags.DurationVar(&k.RetryMin, "retry-min", 100*time.Millisecond, "the shortest pause before a record that failed comes again")
	flags.DurationVar(&k.RetryMax, "retry-max", 10*time.Second, "the longest")
	flags.StringVar((*string)(&k.Start), "start", "", "where a partition without a commit begins: earliest or latest; left out, it is refused")
	flags.StringVar((*string)(&k.Instance), "instance", "", "`NAME` of this instance (default: random)")
	flags.BoolVar(&k.Static, "static", false, "stay a member while restarting; --instance must be this sidecar's own")
	flags.StringToStringVar(&f.labels, "label", nil, "what operators choose services by, `NAME=VALUE`; may be repeated")
	flags.DurationVar(&k.SessionTimeout, "session", 10*time.Second, "how long its partitions are kept for it once it is not heard of")
	flags.BoolVar(&k.CommitEach, "commit-each", false, "commit each batch, or record, before the next")
	flags.DurationVar(&f.grace, "grace", 20*time.Second, "time to finish in when it is told to stop")
}

// config is what flags and configuration say together.
func (f sidecarFlags) config(cfg *config.Config) (sidecar.Config, error) {
	out, k := f.Config, &f.Config.Consumer
	for _, t := range f.topics {
		k.Topics = append(k.Topics, starferry.Topic(t))
	}
	for _, t := range f.produce {
		out.Produce = append(out.Produce, starferry.Topic(t))
	}
	for _, r := range f.retries {
		topic, pause, ok := strings.Cut(r, "=")
		after, err := time.ParseDuration(pause)
		if !ok || err != nil || topic == "" {
			return out, &scripting.UsageError{Text: fmt.Sprintf("sidecar: --retry %q: want TOPIC=PAUSE, such as billing.retry-1m=1m", r)}
		}
		k.Failure.Retries = append(k.Failure.Retries, consumer.Retry{Topic: starferry.Topic(topic), After: after})
	}
	k.Clusters, k.Homes, k.Labels = cfg.All(), cfg.Homes, f.labels
	out.Consumer = *k
	return out, nil
}

// runSidecar works until ctx ends; then it finishes what is in hand.
func (c *cli) runSidecar(ctx context.Context, f sidecarFlags) (err error) {
	var missing []string
	for _, needed := range []struct {
		flag  string
		given bool
	}{{"--group", f.Consumer.Group != ""}, {"--topic", len(f.topics) > 0}, {"--to", f.To != ""}} {
		if !needed.given {
			missing = append(missing, needed.flag)
		}
	}
	if len(missing) > 0 {
		return &scripting.UsageError{Text: "sidecar: " + strings.Join(missing, ", ") + " missing; see starferry sidecar --help"}
	}
	cfg, err := c.config()
	if err != nil {
		return err
	}
	o, err := f.config(cfg)
	if err != nil {
		return err
	}
	o.Logger = c.log(slog.LevelInfo)
	nc, err := agent.ConnectLater(cfg.NATS, "starferry sidecar "+string(o.Consumer.Group), o.Logger)
	if err != nil {
		return err
	}
	defer nc.Close()
	o.Consumer.NATS = nc
	s, err := sidecar.Open(ctx, o)
	if err != nil {
		return stopped(ctx, o.Logger, err)
	}
	o.Logger.Info("sidecar is ready", "group", o.Consumer.Group, "topics", o.Consumer.Topics, "to", o.To, "listen", s.Address())
	<-ctx.Done()
	o.Logger.Info("sidecar is stopping: it finishes what is in hand")
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.grace)
	defer cancel()
	if err := s.Close(closing); err != nil {
		return errors.Join(err, fmt.Errorf("sidecar of %s did not finish within --grace %s", o.Consumer.Group, f.grace))
	}
	return nil
}
