"""Devices and processes: the mesh, how processes start, agree, exchange and watch."""
