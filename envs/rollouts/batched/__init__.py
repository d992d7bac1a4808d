"""Rolling out in a simulator of many worlds that advance together on one device, or on several through Ray."""
