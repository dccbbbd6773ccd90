package main

func checkBounds(options) error { return nil }
