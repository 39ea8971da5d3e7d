package config

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starferry/starferry"
)

const (
	defaultBuckets = 64
	maxBuckets     = 1024
)

// resolver turns what the file says into what the program uses, and collects
// what is wrong.
type resolver struct {
	doc      *document
	dir      string
	getenv   func(string) string
	problems []error
}

func (r *resolver) err() error { return errors.Join(r.problems...) }

func (r *resolver) fail(key, format string, args ...any) {
	r.problems = append(r.problems, r.doc.at(key, format, args...))
}

func (r *resolver) config(file string, raw *rawConfig) *Config {
	c := &Config{File: file, Clusters: map[starferry.ClusterName]starferry.Cluster{}}
	names := make([]string, 0, len(raw.Clusters))
	for name := range raw.Clusters {
		names = append(names, name)
	}
	slices.Sort(names) // so that problems come in the same order every time
	for _, name := range names {
		c.Clusters[starferry.ClusterName(name)] = r.cluster(name, raw.Clusters[name])
	}
	if len(names) == 0 {
		r.fail("clusters", "no clusters: name at least one, such as `old: {brokers: [\"localhost:9092\"]}`")
	}
	c.NATS = r.nats(raw.NATS)
	c.DataDir = r.path(raw.DataDir)
	if c.DataDir == "" {
		c.DataDir = r.path(DefaultDataDir)
	}
	c.Shards = Shards{Buckets: raw.Shards.Buckets, Rate: raw.Shards.Rate}
	if c.Shards.Buckets == 0 {
		c.Shards.Buckets = defaultBuckets
	}
	if b := c.Shards.Buckets; b < 1 || b > maxBuckets {
		r.fail("shards.buckets", "%d buckets: want 1 to %d; %d is a good number", b, maxBuckets, defaultBuckets)
	}
	switch every, err := time.ParseDuration(raw.Shards.Snapshots); {
	case raw.Shards.Snapshots == "":
	case raw.Shards.Snapshots == "off":
		c.Shards.Snapshots = -1
	case err != nil || every < time.Second:
		r.fail("shards.snapshots", "%q: want a time of a second or more, such as 5m, or off", raw.Shards.Snapshots)
	default:
		c.Shards.Snapshots = every
	}
	if c.Shards.Rate < 0 {
		r.fail("shards.rate", "a negative rate: give bytes per second, or 0 for no limit")
	}
	c.Homes = r.homes(raw, c.Names())
	return c
}

func (r *resolver) cluster(name string, raw rawCluster) starferry.Cluster {
	key := "clusters." + name
	// The name travels in commit metadata, KV keys and command lines.
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`).MatchString(name) {
		r.fail(key, "a cluster's name has letters, digits, - and _ only (at most 63): rename it")
	}
	c := starferry.Cluster{Name: starferry.ClusterName(name), Brokers: raw.Brokers, Labels: raw.Labels}
	if len(raw.Brokers) == 0 {
		r.fail(key+".brokers", "no brokers: give at least one host:port")
	}
	for i, b := range raw.Brokers {
		r.address(key+".brokers["+strconv.Itoa(i)+"]", b)
	}
	c.TLS = r.tls(key+".tls", raw.TLS)
	c.SASL = r.sasl(key+".sasl", raw.SASL)
	return c
}

func (r *resolver) address(key, address string) (host string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		r.fail(key, "want host:port, such as localhost:9092")
		return host
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		r.fail(key, "want a port from 1 to 65535 after the colon")
	}
	return host
}

func (r *resolver) tls(key string, raw *rawTLS) *starferry.TLS {
	if raw == nil {
		return nil
	}
	t := &starferry.TLS{
		CAFile: r.file(key+".ca_file", raw.CAFile), CertFile: r.file(key+".cert_file", raw.CertFile),
		KeyFile: r.file(key+".key_file", raw.KeyFile), ServerName: raw.ServerName,
		InsecureSkipVerify: raw.InsecureSkipVerify,
	}
	if (raw.CertFile == "") != (raw.KeyFile == "") {
		r.fail(key, "cert_file and key_file go together: give both or none")
	}
	return t
}

func (r *resolver) sasl(key string, raw *rawSASL) *starferry.SASL {
	if raw == nil {
		return nil
	}
	known := []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}
	s := &starferry.SASL{Mechanism: strings.ToUpper(raw.Mechanism), Username: raw.Username}
	if !slices.Contains(known, s.Mechanism) {
		r.fail(key+".mechanism", "unknown mechanism%s: use one of %s", Suggest(s.Mechanism, known), strings.Join(known, ", "))
	}
	if raw.Username == "" {
		r.fail(key+".username", "no user name: give the one the cluster knows")
	}
	s.Password = r.secret(key, "password", raw.PasswordFile, raw.PasswordEnv)
	return s
}

// secret reads what a file or the environment holds; what is its name in keys.
func (r *resolver) secret(key, what, file, env string) starferry.Secret {
	switch {
	case file != "" && env != "":
		r.fail(key, "both %s_file and %s_env: keep one", what, what)
	case env != "":
		v := r.getenv(env)
		if v == "" {
			r.fail(key+"."+what+"_env", "the environment has no %s: set it before starting", env)
		}
		return starferry.Secret(v)
	case file != "":
		path := r.path(file)
		text, err := os.ReadFile(path)
		if err != nil {
			r.fail(key+"."+what+"_file", "cannot read %s: %s", path, reason(err))
			return ""
		}
		v := strings.TrimRight(string(text), "\r\n")
		if v == "" {
			r.fail(key+"."+what+"_file", "%s is empty: write the %s into it", path, what)
		}
		return starferry.Secret(v)
	default:
		r.fail(key, "no %s: give %s_file or %s_env", what, what, what)
	}
	return ""
}

func (r *resolver) nats(raw rawNATS) NATS {
	n := NATS{
		URL: raw.URL, CredsFile: r.file("nats.creds_file", raw.CredsFile), TLS: r.tls("nats.tls", raw.TLS), Listen: raw.Listen,
		NKeyFile: r.file("nats.nkey_file", raw.NKeyFile), User: raw.User, InboxPrefix: raw.InboxPrefix,
		Operator: raw.Operator, NamedOperators: raw.NamedOperators,
	}
	if raw.User != "" || raw.PasswordFile != "" || raw.PasswordEnv != "" {
		n.Password = r.secret("nats", "password", raw.PasswordFile, raw.PasswordEnv)
	}
	if raw.TokenFile != "" || raw.TokenEnv != "" {
		n.Token = r.secret("nats", "token", raw.TokenFile, raw.TokenEnv)
	}
	if n.URL != "" && n.Listen != "" {
		r.fail("nats", "both url and listen: url uses a server that is there, listen starts one; keep one")
	}
	if n.URL == "" && (n.CredsFile != "" || n.TLS != nil || n.NKeyFile != "" || n.User != "" || n.Token != "") {
		r.fail("nats", "credentials and tls belong to a given server: add url")
	}
	if n.Operator != "" && !regexp.MustCompile(`^[A-Za-z0-9_@=-]{1,64}$`).MatchString(n.Operator) {
		r.fail("nats.operator", "want 1 to 64 letters, digits, -, _, @ or =: it is a token of subjects")
	}
	if err := n.Connection().Check(); err != nil && n.URL != "" {
		r.fail("nats", "%s", err)
	}
	if n.Listen == "" {
		n.Listen = DefaultListen
	}
	host := r.address("nats.listen", n.Listen)
	if ip := net.ParseIP(host); host != "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		// The embedded server has no authentication.
		r.fail("nats.listen", "the agent's own NATS server listens on this machine only (127.0.0.1 or localhost): "+
			"for several machines run a NATS server with authentication and give its url")
	}
	return n
}

// file resolves the path of a file that must be readable.
func (r *resolver) file(key, path string) string {
	path = r.path(path)
	if path == "" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		r.fail(key, "cannot read %s: %s", path, reason(err))
		return path
	}
	_ = f.Close() // opened for reading only, to see that it can be
	return path
}

func (r *resolver) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(r.dir, p)
}

func reason(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}
