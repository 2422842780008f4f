"""What scaling settings do with a trace of calls: the plane's autoscaler on a simulated clock."""
