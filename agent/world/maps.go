package world

import (
	"context"
	"io"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/replication"
)

// ExportMap writes a link's map as text; see replication.Client.ExportMap.
func (l *Links) ExportMap(ctx context.Context, name starferry.LinkName, topics []starferry.Topic, w io.Writer) error {
	return notFound(name, l.client.ExportMap(ctx, name, topics, w))
}

// ImportMap fills what a link's map does not know; see replication.Client.ImportMap.
func (l *Links) ImportMap(ctx context.Context, name starferry.LinkName, text io.ReadSeeker) ([]replication.Imported, error) {
	done, err := l.client.ImportMap(ctx, name, text)
	return done, notFound(name, err)
}
