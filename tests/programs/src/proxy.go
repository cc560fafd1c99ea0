// A TCP proxy as everybody writes it: io.Copy between two connections, which Go carries out
// with splice().  proxy LISTEN TARGET
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func forward(from, to *net.TCPConn) {
	io.Copy(to, from)
	to.CloseWrite()
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		near, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		far, err := net.Dial("tcp", os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		go forward(near.(*net.TCPConn), far.(*net.TCPConn))
		go forward(far.(*net.TCPConn), near.(*net.TCPConn))
	}
}
