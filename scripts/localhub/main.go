// Command localhub is a small Hugging Face Hub for one machine: it takes pushes and serves what was pushed. The
// walkthrough and its test push to it, so that they need neither a network nor an account.
//
//	localhub -dir DIR [-addr 127.0.0.1:0] [-token TOKEN]
//
// It prints its address as the first line of standard output and runs until its standard input ends or it gets a
// signal. A repository OWNER/NAME lies in DIR/OWNER/NAME as plain files; DIR/.hub holds large objects and the list
// of commits.
//
// It speaks what a push and a download need: whoami, repository creation, preupload, LFS batch with basic transfer
// and verification, commits (ndjson), revision info, tree and resolve. One branch, "main".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("localhub: ")
	dir := flag.String("dir", "", "folder that repositories are kept in")
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	token := flag.String("token", "", "token that requests must bear; default: none")
	flag.Parse()
	if *dir == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(*dir, *addr, *token); err != nil {
		log.Fatal(err)
	}
}

func serve(dir, addr, token string) error {
	h, err := openHub(dir, token)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", l.Addr())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	s := &http.Server{Handler: h.handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
