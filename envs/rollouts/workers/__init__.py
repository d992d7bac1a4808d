"""Workers that step one world each, in processes of this machine or on the machines of a Ray cluster."""
