//! Calls of agents, passed on byte for byte: to the host that the request names, over our own connection to its agent.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use http_body::{Frame, SizeHint};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Bytes, Service,
        http::{HeaderMap, HeaderValue, Request, Response},
    },
    transport::Channel,
};
use tower::ServiceExt as _;
use vmferry_core::{
    agent::CallError,
    id::HostName,
    identity::{Asker, Role},
    reason::Reason,
};
use vmferry_proto::{
    authorize::{HOST, ON_BEHALF_OF},
    status::from_call_error,
};

use crate::{
    client::{Place, RemoteAgent, from_status},
    fleet::Newest,
};

/// Below this are the calls that agents answer.
const AGENTS: &str = "/vmferry.agent.v1.";

/// Passes agents' calls on, and others to what is below it.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) fleet: Newest,
    /// This coordinator's name.
    pub(super) name: HostName,
}

impl<S> tower::Layer<S> for Layer {
    type Service = Relay<S>;

    fn layer(&self, inner: S) -> Relay<S> {
        Relay { inner, fleet: self.fleet.clone(), name: self.name.clone() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Relay<S> {
    inner: S,
    fleet: Newest,
    name: HostName,
}

impl<S> Service<Request<Body>> for Relay<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !request.uri().path().starts_with(AGENTS) {
            return Either::Left(self.inner.call(request));
        }
        let answer = match self.agent(&request) {
            Ok((agent, asker)) => pass_on(agent, asker, request).boxed(),
            Err(refusal) => std::future::ready(refusal_of(&refusal)).boxed(),
        };
        Either::Right(answer.map(Ok).boxed())
    }
}

impl<S> Relay<S> {
    /// Whom it is for, and whose wish it is, which was judged before.
    fn agent(&self, request: &Request<Body>) -> Result<(RemoteAgent, Asker), CallError> {
        let refusal = |reason, message| CallError { host: self.name.clone(), reason, message };
        let asker = request.extensions().get::<Asker>().cloned();
        let asker = asker.filter(|asker| asker.identity.role != Role::Agent).ok_or_else(|| {
            refusal(Reason::PermissionDenied, "agents call each other, and not through a coordinator".to_owned())
        })?;
        let asker = whose_own(asker).map_err(|message| refusal(Reason::PermissionDenied, message))?;
        let mut named = request.headers().get_all(HOST).iter();
        let named = match (named.next(), named.next()) {
            (Some(name), None) => name.to_str().ok().and_then(|name| name.parse().ok()),
            _ => None,
        };
        let name: HostName = named.ok_or_else(|| {
            let message = format!(
                "{} is a coordinator, and the call one of agents: name the host in the metadata {HOST}",
                self.name
            );
            refusal(Reason::InvalidRequest, message)
        })?;
        match self.fleet.get().agent(&name) {
            Ok(agent) => Ok((agent.clone(), asker)),
            Err(failed) => Err(refusal(Reason::HostNotFound, failed.message)),
        }
    }
}

/// A coordinator passes on the wishes of those who call it, and of nobody on whose behalf they say that they call: agents would be told
/// only whose wish it is said to be.
pub(super) fn whose_own(asker: Asker) -> Result<Asker, String> {
    match &asker.via {
        None => Ok(asker),
        Some(via) => {
            Err(format!("{via} calls on behalf of {}, which only agents take from coordinators", asker.identity))
        }
    }
}

async fn pass_on(agent: RemoteAgent, asker: Asker, request: Request<Body>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(HOST);
    let whose = HeaderValue::from_str(&asker.identity.to_string()).expect("identities are ASCII");
    parts.headers.insert(ON_BEHALF_OF, whose);
    let mut passed = Request::new(body);
    *passed.method_mut() = parts.method;
    *passed.version_mut() = parts.version;
    *passed.headers_mut() = parts.headers;
    // The connection knows the rest of it.
    *passed.uri_mut() = parts.uri.path_and_query().cloned().map(Into::into).unwrap_or_default();

    let place = agent.place().clone();
    match send(agent.relayed(), passed).await {
        Ok(response) => response.map(|inner| Body::new(Passed { inner, place, is_over: false })),
        Err(status) => refusal_of(&from_status(&status, &place)),
    }
}

async fn send(mut connection: Channel, request: Request<Body>) -> Result<Response<Body>, Status> {
    let broken = |error: tonic::transport::Error| Status::from_error(Box::new(error));
    connection.ready().await.map_err(broken)?.call(request).await.map_err(broken)
}

fn refusal_of(error: &CallError) -> Response<Body> {
    from_call_error(error).into_http()
}

/// What an agent answers. If the connection to it breaks, the caller is told so, as it would be without us.
struct Passed {
    inner: Body,
    place: Place,
    is_over: bool,
}

impl http_body::Body for Passed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Err(status))) => {
                self.is_over = true;
                let mut trailers = HeaderMap::new();
                let said = from_call_error(&from_status(&status, &self.place));
                Poll::Ready(Some(said.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
