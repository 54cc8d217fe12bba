// Command kube is the programs of Kubernetes in one binary: kube apiserver|controller-manager|scheduler|kubelet|proxy FLAGS.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// Only the one that is wanted is made: they register the same feature gates.
func program(name string) *cobra.Command {
	switch name {
	case "apiserver":
		return apiserver.NewAPIServerCommand()
	case "controller-manager":
		return controllers.NewControllerManagerCommand()
	case "scheduler":
		return scheduler.NewSchedulerCommand()
	case "kubelet":
		return kubelet.NewKubeletCommand(context.Background())
	case "proxy":
		return proxy.NewProxyCommand()
	}
	fmt.Fprintln(os.Stderr, "usage: kube apiserver|controller-manager|scheduler|kubelet|proxy FLAGS")
	os.Exit(64)
	return nil
}

func main() {
	if len(os.Args) < 2 {
		program("")
	}
	command := program(os.Args[1])
	os.Args = os.Args[1:]
	if command.Execute() != nil {
		os.Exit(1)
	}
}
