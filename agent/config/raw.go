package config

// rawConfig is the file's own shape. Every key that exists is here.
type rawConfig struct {
	Clusters map[string]rawCluster `yaml:"clusters"`
	NATS     rawNATS               `yaml:"nats"`
	DataDir  string                `yaml:"data_dir"`
	Shards   rawShards             `yaml:"shards"`
	Homes    []rawHome             `yaml:"homes"`
	Labels   []rawLabels           `yaml:"labels"`
}

type rawHome struct {
	Groups  []string          `yaml:"groups"`
	Topics  []string          `yaml:"topics"`
	Labels  map[string]string `yaml:"labels"`
	Cluster string            `yaml:"cluster"`
}

type rawLabels struct {
	Groups []string          `yaml:"groups"`
	Topics []string          `yaml:"topics"`
	Labels map[string]string `yaml:"labels"`
}

type rawCluster struct {
	Brokers []string          `yaml:"brokers"`
	TLS     *rawTLS           `yaml:"tls"`
	SASL    *rawSASL          `yaml:"sasl"`
	Labels  map[string]string `yaml:"labels"`
}

type rawTLS struct {
	CAFile             string `yaml:"ca_file"`
	CertFile           string `yaml:"cert_file"`
	KeyFile            string `yaml:"key_file"`
	ServerName         string `yaml:"server_name"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
}

type rawSASL struct {
	Mechanism    string `yaml:"mechanism"`
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	PasswordEnv  string `yaml:"password_env"`
}

type rawNATS struct {
	URL            string  `yaml:"url"`
	CredsFile      string  `yaml:"creds_file"`
	NKeyFile       string  `yaml:"nkey_file"`
	User           string  `yaml:"user"`
	PasswordFile   string  `yaml:"password_file"`
	PasswordEnv    string  `yaml:"password_env"`
	TokenFile      string  `yaml:"token_file"`
	TokenEnv       string  `yaml:"token_env"`
	InboxPrefix    string  `yaml:"inbox_prefix"`
	Operator       string  `yaml:"operator"`
	NamedOperators bool    `yaml:"named_operators"`
	TLS            *rawTLS `yaml:"tls"`
	Listen         string  `yaml:"listen"`
}

type rawShards struct {
	Buckets   int    `yaml:"buckets"`
	Rate      int64  `yaml:"rate"`
	Snapshots string `yaml:"snapshots"`
}

// Example is a configuration that shows every key.
const Example = `# Every starferry process reads this file: agent, shards, command line.
clusters:
  old:
    brokers: ["kafka-old-1:9092", "kafka-old-2:9092"]
    labels: {dc: dc1}
  new:
    brokers: ["kafka-new-1:9093"]
    tls:
      ca_file: ca.pem               # left out: the system's authorities
      cert_file: client.pem         # with key_file: mutual TLS
      key_file: client.key
      server_name: kafka.internal   # left out: the broker's host name
      insecure_skip_verify: false
    sasl:
      mechanism: SCRAM-SHA-512      # or SCRAM-SHA-256, PLAIN
      username: starferry
      password_file: new.password   # or password_env: NEW_PASSWORD
    labels: {dc: dc2, sla: gold}

# Left out, the agent runs a NATS server of its own on this machine.
nats:
  url: nats://nats-1:4222,nats://nats-2:4222
  creds_file: starferry.creds       # or one of these:
  # nkey_file: starferry.nk
  # user: agent                     # with password_file, or password_env: NATS_PASSWORD
  # token_file: nats.token          # or token_env: NATS_TOKEN
  # tls: {ca_file: ca.pem}          # and cert_file, key_file, as for clusters
  inbox_prefix: _INBOX_agent        # where permissions say so: starferry nats permissions
  # operator: alice                 # of the command line: the name that NATS knows you by
  # named_operators: true           # of agents: orders only from operators with such a name
  # listen: 127.0.0.1:4222          # of the agent's own server, instead of url

data_dir: starferry-data            # relative to this file
shards:
  buckets: 64                       # of each new link
  rate: 0                           # bytes per second of each link; 0: no limit
  snapshots: 5m                     # how often grown offset maps are copied to NATS; off: never

# Where groups and topics live that have never been moved: the first that fits.
homes:
  - groups: ["billing", "pay-*"]    # * any text, ? one character
    cluster: old
  - labels: {dc: dc2}
    cluster: new
  - topics: ["audit.*"]             # their groups too
    cluster: new
  - cluster: old                    # for the rest
# Labels by name, beside those that services give themselves; waves go by them.
labels:
  - groups: ["pay-*"]
    topics: ["pay-*"]
    labels: {dc: dc1, sla: gold}
`
