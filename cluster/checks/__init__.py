"""What `deepintuit check` looks at, one module an area: what a run is given -> findings."""
