package starferry

import (
	"fmt"
	"io"
	"log/slog"
)

// Cluster says how to reach one Kafka cluster.
type Cluster struct {
	Name    ClusterName
	Brokers []string // host:port, at least one
	TLS     *TLS     // nil: plain text
	SASL    *SASL    // nil: no authentication
	Labels  map[string]string
}

// TLS is the transport security of a cluster.
type TLS struct {
	CAFile             string
	CertFile, KeyFile  string
	ServerName         string
	InsecureSkipVerify bool
}

// SASL is a cluster's authentication. Mechanism is PLAIN, SCRAM-SHA-256 or
// SCRAM-SHA-512.
type SASL struct {
	Mechanism string
	Username  string
	Password  Secret
}

// Format implements fmt.Formatter for every verb. Without it a pointer to a SASL
// inside another value, printed with %s, would show the password: fmt calls no
// methods below a verb that does not fit.
func (s SASL) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "{Mechanism:%s Username:%s Password:%s}", s.Mechanism, s.Username, stars) //nolint:errcheck // as fmt does
}

// Secret is a string that never shows itself: every formatting of it, JSON and
// structured logs included, is "***".
type Secret string

const stars = "***"

// Format implements fmt.Formatter, for verbs that fit no string too.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, stars) }

// String implements fmt.Stringer.
func (Secret) String() string { return stars }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return stars }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(stars), nil }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(stars) }

// Reveal returns the secret itself, for the one place that hands it to a peer.
func (s Secret) Reveal() string { return string(s) }
