"""One job from claim to record, and several at a time on this machine."""
