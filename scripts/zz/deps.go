package main

import (
	_ "github.com/apache/arrow-go/v18/arrow/ipc"
	_ "github.com/dlclark/regexp2/v2"
	_ "github.com/go-zeromq/zmq4"
	_ "github.com/goccy/go-yaml"
	_ "github.com/gomlx/compute/gobackend"
	_ "github.com/gomlx/go-xla/compute/xla"
	_ "github.com/gomlx/gomlx/core/graph"
	_ "github.com/janpfeifer/go-benchmarks"
	_ "github.com/janpfeifer/gonb/gonbui"
	_ "github.com/janpfeifer/gonb/gonbui/protocol"
	_ "github.com/parquet-go/parquet-go"
	_ "github.com/schollz/progressbar/v3"
	_ "github.com/spf13/cobra"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/text/unicode/norm"
	_ "gonum.org/v1/plot"
)
