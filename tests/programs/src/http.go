// An HTTP server, or a client that is told on its standard input what to do:
// "CONNECTIONS REQUESTS" opens so many connections and makes so many requests on each, one
// after the other, and answers with the number of bytes it received, every one checked.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
)

const bodySize = 16384

func body() []byte {
	data := make([]byte, bodySize)
	for i := range data {
		data[i] = byte(i % 251)
	}
	return data
}

func serve(address string) error {
	data := body()
	handler := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Write(data)
	}
	return http.ListenAndServe(address, http.HandlerFunc(handler))
}

// One client has one connection: its transport keeps it between requests.
func fetch(url string, requests int, want []byte) (int, error) {
	transport := &http.Transport{DialContext: (&net.Dialer{}).DialContext}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	total := 0
	for i := 0; i < requests; i++ {
		answer, err := client.Get(url)
		if err != nil {
			return total, err
		}
		data, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			return total, err
		}
		if string(data) != string(want) {
			return total, fmt.Errorf("wrong body of %d bytes", len(data))
		}
		total += len(data)
	}
	return total, nil
}

func load(url string, connections, requests int) (int, error) {
	want := body()
	totals, errs := make([]int, connections), make([]error, connections)
	var group sync.WaitGroup
	for i := 0; i < connections; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			totals[i], errs[i] = fetch(url, requests, want)
		}(i)
	}
	group.Wait()
	sum := 0
	for i := range totals {
		if errs[i] != nil {
			return sum, errs[i]
		}
		sum += totals[i]
	}
	return sum, nil
}

func main() {
	if os.Args[1] == "serve" {
		fmt.Fprintln(os.Stderr, serve(os.Args[2]))
		os.Exit(1)
	}
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		var connections, requests int
		fmt.Sscan(input.Text(), &connections, &requests)
		total, err := load("http://"+os.Args[2]+"/", connections, requests)
		if err != nil {
			fmt.Println("error", err)
		} else {
			fmt.Println("ok", total)
		}
	}
}
