package main

import (
	"slices"
	"strings"

	blixardv1 "github.com/blixard/blixard/proto/blixard/v1"
)

// shares reads --share: TAG=/FOLDER, TAG=/FOLDER:ro, or none.
func (c *SpecFlags) shares(s *blixardv1.VMSpec) error {
	if len(c.Share) == 0 {
		return nil
	}
	s.Shares = nil
	if slices.Equal(c.Share, []string{"none"}) {
		return nil
	}
	for _, text := range c.Share {
		tag, folder, ok := strings.Cut(text, "=")
		folder, readOnly := strings.CutSuffix(folder, ":ro")
		if !ok || tag == "" || !strings.HasPrefix(folder, "/") {
			return usagef("--share %s: want TAG=/FOLDER, or TAG=/FOLDER:ro, with a folder of the host", text)
		}
		s.Shares = append(s.Shares, &blixardv1.Share{Tag: tag, Source: folder, ReadOnly: readOnly})
	}
	return nil
}
