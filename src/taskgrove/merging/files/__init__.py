"""Model folders on disk: headers, layouts, adapters, cards, journals."""
