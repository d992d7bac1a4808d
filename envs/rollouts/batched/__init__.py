"""Rolling out in many worlds that advance together on one device, or on several devices through Ray."""
