package starferry

import "log/slog"

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

// Secret is a string that never shows itself: every formatting of it, JSON and
// structured logs included, is "***".
type Secret string

const stars = "***"

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
