package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/goccy/go-yaml"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// homes makes rules of what the file says and refuses what can never hold.
func (r *resolver) homes(raw *rawConfig, clusters []starferry.ClusterName) control.Homes {
	var h control.Homes
	for i, rule := range raw.Homes {
		key := fmt.Sprintf("homes[%d]", i)
		names := r.names(key, rule.Groups, rule.Topics)
		r.labels(key+".labels", rule.Labels)
		switch c := starferry.ClusterName(rule.Cluster); {
		case c == "":
			r.fail(key, "no cluster: name the one that it lives on, such as `cluster: %s`", first(clusters))
		case !slices.Contains(clusters, c):
			r.fail(key+".cluster", "no cluster %q%s; there are %s", c, Suggest(rule.Cluster, texts(clusters)), list(clusters))
		}
		if len(rule.Groups)+len(rule.Topics)+len(rule.Labels) == 0 && i < len(raw.Homes)-1 {
			r.fail(key, "this rule is for the rest, so that those after it are never reached: put it last")
		}
		h.Rules = append(h.Rules, control.HomeRule{Names: names, Labels: rule.Labels, Cluster: starferry.ClusterName(rule.Cluster)})
	}
	for i, rule := range raw.Labels {
		key := fmt.Sprintf("labels[%d]", i)
		names := r.names(key, rule.Groups, rule.Topics)
		if len(rule.Labels) == 0 {
			r.fail(key, "no labels: give at least one, such as `labels: {sla: gold}`")
		}
		r.labels(key+".labels", rule.Labels)
		h.Labels = append(h.Labels, control.LabelRule{Names: names, Labels: rule.Labels})
	}
	return h
}

func first(clusters []starferry.ClusterName) starferry.ClusterName {
	if len(clusters) == 0 {
		return "old"
	}
	return clusters[0]
}

func (r *resolver) names(key string, groups, topics []string) control.Names {
	for what, patterns := range map[string][]string{"groups": groups, "topics": topics} {
		for i, p := range patterns {
			if p == "" {
				r.fail(fmt.Sprintf("%s.%s[%d]", key, what, i), "an empty pattern matches nothing: give a name, or * for all")
			}
		}
	}
	return control.Names{Groups: groups, Topics: topics}
}

func (r *resolver) labels(key string, labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if k == "" || labels[k] == "" {
			r.fail(key, "a label needs a name and a value, such as {dc: dc1}")
		}
	}
}

// ParseHomeMap reads a plain map of topic to cluster, YAML or JSON, such as
// "orders: dc1". A cluster that is not configured is a problem with its line.
func (c *Config) ParseHomeMap(file string, text []byte) (map[starferry.Topic]starferry.ClusterName, error) {
	doc, err := parseDocument(file, text)
	if err != nil {
		return nil, err
	}
	out := map[starferry.Topic]starferry.ClusterName{}
	if doc.root == nil {
		return nil, &Problem{File: file, Text: "the file is empty: write one `topic: cluster` a line"}
	}
	if err := doc.check(&out); err != nil {
		return nil, err
	}
	if err := yaml.NodeToValue(doc.root, &out); err != nil {
		return nil, fmt.Errorf("%s: the file cannot be read as a map of topics: write one `topic: cluster` a line", file)
	}
	r := &resolver{doc: doc}
	for _, t := range slices.Sorted(maps.Keys(out)) {
		if _, known := c.Clusters[out[t]]; !known {
			r.fail(string(t), "no cluster %q%s; there are %s", out[t], Suggest(string(out[t]), texts(c.Names())), list(c.Names()))
		}
	}
	return out, r.err()
}
