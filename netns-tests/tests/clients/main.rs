//! Real clients: containerd and podman run containers on our plugins.
mod containerd;
mod cri;
mod grpc;
mod image;
mod networks;
mod node;
mod podman;
mod protobuf;

mod with_cri;
mod with_ctr;
mod with_our_image;
mod with_podman;
