//! Agents that answer to their name and then not as they should; and connections that end in the middle.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http_body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tonic::{
    Status,
    body::Body,
    codegen::{Bytes, Service, http},
};

use super::agent::World;

/// How an agent misbehaves, whatever it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misbehaviour {
    /// It says nothing more.
    Hangs,
    /// What it says is no message.
    Garbage,
    /// What it says is a message without anything in it.
    Nothing,
    /// It stops in the middle of a message.
    Breaks,
}

/// Lets an agent misbehave once the world wants it.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) name: &'static str,
    pub(super) world: Arc<Mutex<World>>,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty { inner, layer: self.clone() }
    }
}

#[derive(Clone)]
pub(super) struct Faulty<S> {
    inner: S,
    layer: Layer,
}

impl<S> Service<http::Request<Body>> for Faulty<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<S::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let wanted = self.layer.world.lock().expect("no agent panics with it").misbehaves;
        let Some((_, misbehaviour)) = wanted.filter(|(name, _)| *name == self.layer.name) else {
            return Box::pin(self.inner.call(request));
        };
        Box::pin(async move {
            let message = |bytes: &'static [u8]| Ok(Frame::data(Bytes::from_static(bytes)));
            let end = || {
                let success = http::HeaderMap::from_iter([(Status::GRPC_STATUS, http::HeaderValue::from_static("0"))]);
                Ok(Frame::trailers(success))
            };
            let pieces = match misbehaviour {
                Misbehaviour::Hangs => pending().await,
                // A message of four bytes, none of which begins a field.
                Misbehaviour::Garbage => [message(b"\0\0\0\0\x04\xff\xff\xff\xff"), end()],
                Misbehaviour::Nothing => [message(b"\0\0\0\0\0"), end()],
                // Of sixteen there are three.
                Misbehaviour::Breaks => [message(b"\0\0\0\0\x10\x0a\x0e\x0a"), Err(Status::aborted("it dies"))],
            };
            let body = Body::new(Pieces(pieces.into()));
            let response = http::Response::builder().header("content-type", "application/grpc");
            Ok(response.body(body).expect("valid"))
        })
    }
}

struct Pieces(VecDeque<Result<Frame<Bytes>, Status>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front())
    }
}

/// A way to an agent on which only so many bytes come back, over each connection.
pub(crate) struct Lossy {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Lossy {
    pub(crate) async fn to(agent: String, bytes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.expect("a connection");
                let far = TcpStream::connect(&agent).await.expect("the agent listens");
                tokio::spawn(async move {
                    let ((mut asks, mut hears), (from, mut to)) = (near.into_split(), far.into_split());
                    let asking = copy(&mut asks, &mut to);
                    let mut from = from.take(bytes);
                    tokio::select! {
                        _ = asking => {}
                        _ = copy(&mut from, &mut hears) => {}
                    }
                    _ = hears.shutdown().await;
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
