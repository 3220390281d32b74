"""Many tasks: methods compared on episodes of several data sets, on one machine or a cluster."""
