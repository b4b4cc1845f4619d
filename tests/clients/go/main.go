// Lists pods until it is told to stop (standard input ends): one line of JSON for each call, with what went wrong.
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	kubeconfig, namespace := os.Args[1], os.Args[2]
	pause, err := time.ParseDuration(os.Args[3] + "s")
	check(err)
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	check(err)
	client, err := kubernetes.NewForConfig(config)
	check(err)
	stopped := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stopped)
	}()
	for {
		_, err := client.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{})
		line := map[string]string{"error": ""}
		if err != nil {
			line["error"] = err.Error()
		}
		check(json.NewEncoder(os.Stdout).Encode(line))
		select {
		case <-stopped:
			return
		case <-time.After(pause):
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
