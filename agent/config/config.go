// Package config reads the one configuration file that every starferry process
// shares: agent, shards and the command line.
//
// # Rules
//
//   - The file is strict: an unknown key or a value of the wrong type is an
//     error that names file, line and key, and suggests what was meant. All
//     problems are reported at once.
//   - Relative paths are relative to the file's own folder.
//   - Secrets stand in files or environment variables, never in the
//     configuration, and are kept as [starferry.Secret].
package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/natsconn"
)

// EnvFile is the environment variable that points at the configuration file.
const EnvFile = "STARFERRY_CONFIG"

// DefaultFile is used when neither a flag nor EnvFile names one and it exists.
const DefaultFile = "starferry.yaml"

// DefaultListen is where the agent's embedded NATS server listens.
const DefaultListen = "127.0.0.1:4222"

// DefaultDataDir is the data directory, beside the file, if none is given.
const DefaultDataDir = "starferry-data"

// Config is a checked configuration. Its zero value has no clusters.
type Config struct {
	File     string // where it was read from; empty for a configuration made in memory
	Clusters map[starferry.ClusterName]starferry.Cluster
	NATS     NATS
	DataDir  string
	Shards   Shards
	// Homes are the rules and labels of the file.
	Homes control.Homes
}

// NATS says how to reach NATS. With an empty URL the agent runs a server of its
// own, which listens on Listen and keeps its streams in the data directory.
type NATS struct {
	URL       string
	CredsFile string
	TLS       *starferry.TLS
	Listen    string // host:port of the embedded server, on this machine only
	// Other credentials than CredsFile, and the prefix of inboxes: see
	// [natsconn.Config].
	NKeyFile, User  string
	Password, Token starferry.Secret
	InboxPrefix     string
	// Operator is the name that the command line asks agents under; NATS lets
	// nobody else use it. Empty: orders bear the name the operating system says.
	Operator string
	// NamedOperators lets an agent take orders only under such a name.
	NamedOperators bool
}

// Connection is all of it that a connection needs.
func (n NATS) Connection() natsconn.Config {
	return natsconn.Config{
		URL: n.Address(), TLS: n.TLS, CredsFile: n.CredsFile, NKeyFile: n.NKeyFile,
		User: n.User, Password: n.Password, Token: n.Token, InboxPrefix: n.InboxPrefix,
	}
}

// Embedded reports whether the agent runs the NATS server itself.
func (n NATS) Embedded() bool { return n.URL == "" }

// Address is the URL that processes connect to.
func (n NATS) Address() string {
	if n.Embedded() {
		return "nats://" + n.Listen
	}
	return n.URL
}

// Redacted is the address for people, without what stands before a host: a user
// and password, or a token. It need not be a proper URL.
func (n NATS) Redacted() string { return natsconn.Redacted(n.Address()) }

// Shards are settings of replicator processes.
type Shards struct {
	// Buckets is the number of buckets a new link is divided into.
	Buckets int
	// Rate limits each link, bytes per second; 0 means no limit.
	Rate int64
	// Snapshots is how often maps that have grown are snapshotted; 0 means the
	// default, a negative one never.
	Snapshots time.Duration
}

// Names returns the clusters' names in order.
func (c *Config) Names() []starferry.ClusterName {
	names := make([]starferry.ClusterName, 0, len(c.Clusters))
	for n := range c.Clusters {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Cluster returns a cluster by name; an unknown name is an error that lists
// those there are.
func (c *Config) Cluster(name starferry.ClusterName) (starferry.Cluster, error) {
	if cl, ok := c.Clusters[name]; ok {
		return cl, nil
	}
	return starferry.Cluster{}, fmt.Errorf("find cluster %q: %s has %s%s; add it below clusters: or use one of these",
		name, c.where(), list(c.Names()), Suggest(string(name), texts(c.Names())))
}

// All returns all clusters in order of their names, as consumer.Config wants them.
func (c *Config) All() []starferry.Cluster {
	var out []starferry.Cluster
	for _, n := range c.Names() {
		out = append(out, c.Clusters[n])
	}
	return out
}

func (c *Config) where() string {
	if c.File == "" {
		return "the configuration"
	}
	return c.File
}

// Find returns the configuration file to use: the flag's, the environment's, or
// starferry.yaml in the working directory; "" if there is none.
func Find(flag string, getenv func(string) string) string {
	if flag != "" {
		return flag
	}
	if f := getenv(EnvFile); f != "" {
		return f
	}
	if _, err := os.Stat(DefaultFile); err == nil {
		return DefaultFile
	}
	return ""
}

// ErrNoFile is returned by Load when no file is named.
var ErrNoFile = errors.New("no configuration file: name one with --config FILE or " + EnvFile +
	", or put " + DefaultFile + " into this folder (`starferry config example` prints one)")

// Load reads and checks a file. Getenv resolves references to environment
// variables.
func Load(file string, getenv func(string) string) (*Config, error) {
	if file == "" {
		return nil, ErrNoFile
	}
	text, err := os.ReadFile(file)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read configuration: %s does not exist: check --config and %s", file, EnvFile)
		}
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(file, text, getenv)
}

// Parse reads a configuration from text; file is its name in errors and the
// base of relative paths.
func Parse(file string, text []byte, getenv func(string) string) (*Config, error) {
	doc, err := parseDocument(file, text)
	if err != nil {
		return nil, err
	}
	var raw rawConfig
	if doc.root != nil {
		if err := doc.check(&raw); err != nil {
			return nil, err
		}
		if err := yaml.NodeToValue(doc.root, &raw, yaml.Strict()); err != nil {
			return nil, fmt.Errorf("%s: the file cannot be read as a configuration: see `starferry config example`", file)
		}
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("find folder of %s: %w", file, err)
	}
	r := &resolver{doc: doc, dir: dir, getenv: getenv}
	c := r.config(file, &raw)
	return c, r.err()
}
