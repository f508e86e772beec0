//! The source's job: rounds over a guest's memory, as long as they take, until the rest can be sent at once.

use std::{io, time::Duration};

use bytesize::ByteSize;
use tokio::{
    io::{AsyncWriteExt as _, copy, repeat},
    net::UnixStream,
    time::{Instant, sleep_until},
};
use vmferry_agent::{
    hypervisor::{Control, Fault},
    tunnel,
};
use vmferry_core::{
    convergence::Action,
    id::HostName,
    migration::{Order, Progress, Statistics},
    reason::Reason,
};

use crate::{
    far::{Ask, Line},
    guests::Guest,
};

/// How often a job tells how it goes: as often as libvirt is asked.
const SAMPLE: Duration = Duration::from_millis(250);
/// Of so many bytes of memory one is really sent.
const REALLY_SENT: u64 = 1024;

/// A job that runs.
pub(crate) struct Job<'a> {
    order: &'a Order,
    control: Control,
    /// Per second.
    bandwidth: u64,
    dirty_rate: u64,
    memory: u64,
    /// Where it goes through.
    way: UnixStream,
    /// Really.
    sent: u64,
    begun: Instant,
    round: u32,
    transferred: u64,
    stopped: bool,
}

impl<'a> Job<'a> {
    /// Runs one to its end. `bandwidth`: what there is per second.
    pub(crate) async fn run(
        order: &'a Order,
        source: &HostName,
        guest: &Guest,
        bandwidth: ByteSize,
        control: Control,
    ) -> Result<Statistics, Fault> {
        let cancel = control.cancel.clone();
        let aborted =
            || Fault::new(Reason::MigrationAborted, format!("the migration of {} was aborted", order.instance_name));
        if cancel.is_cancelled() {
            return Err(aborted());
        }
        let failed = |error: String| {
            let (name, to) = (&order.instance_name, &order.destination.host);
            Fault::new(Reason::MigrationFailed, format!("{name} could not be moved to {to}: {error}"))
        };
        let broken = |error: io::Error| failed(error.to_string());
        let line = UnixStream::connect(tunnel::libvirt_socket(order.id)).await.map_err(broken)?;
        let mut line = Line::new(line);
        let prepare = Ask::Prepare {
            instance: order.instance,
            migration: order.id,
            source: source.clone(),
            guest: guest.file.clone(),
        };
        line.ask(&prepare).await.map_err(broken)?.map_err(failed)?;
        let way = UnixStream::connect(tunnel::memory_socket(order.id)).await.map_err(broken)?;
        let asked = order.limits.bandwidth.unwrap_or(bandwidth);
        let mut job = Self {
            order,
            control,
            bandwidth: bandwidth.min(asked).as_u64().max(1),
            dirty_rate: guest.file.dirty_rate.as_u64(),
            memory: guest.definition.memory.as_u64(),
            way,
            sent: 0,
            begun: Instant::now(),
            round: 1,
            transferred: 0,
            stopped: false,
        };
        job.control.foresight.show(&job.control.ladder);
        let rounds = cancel.run_until_cancelled(job.rounds()).await.ok_or_else(aborted)?;
        let downtime = rounds.map_err(|stop| match stop {
            Stop::Broken(error) => broken(error),
            Stop::GivenUp => Fault::new(
                Reason::NotConverging,
                format!("{} writes faster than it is sent, and its policy gives it up", order.instance_name),
            ),
        })?;
        let stopped = Instant::now() - downtime;
        // From here on the other may have it, whatever is heard of that.
        let sent = job.sent;
        let handed_over =
            line.ask(&Ask::Finish { sent }).await.map_err(|error| error.to_string()).and_then(|answer| answer);
        handed_over.map_err(|error| {
            let (name, to) = (&order.instance_name, &order.destination.host);
            Fault::new(Reason::HandoverFailed, format!("{name} could not be handed over to {to}: {error}"))
        })?;
        if let Some(released) = job.control.released.take() {
            // Nobody may want to know any more.
            _ = released.send(stopped);
        }
        Ok(Statistics {
            total_time: job.begun.elapsed(),
            downtime,
            transferred: ByteSize::b(job.transferred),
            total: ByteSize::b(job.memory),
            rounds: job.round,
        })
    }

    /// Until the guest is stopped and all is sent; returns how long it stood still.
    async fn rounds(&mut self) -> Result<Duration, Stop> {
        let mut left = self.memory;
        loop {
            self.tell(left)?;
            let dirtied = self.round(left).await?;
            let rest = self.time(dirtied);
            if self.stopped || rest <= self.control.ladder.downtime() {
                self.stopped = true;
                self.tell(dirtied)?;
                self.send(dirtied, Instant::now() + rest).await?;
                self.way.shutdown().await?;
                return Ok(rest);
            }
            self.round += 1;
            left = dirtied;
        }
    }

    /// Sends so much; returns what of it was written to meanwhile.
    async fn round(&mut self, mut left: u64) -> Result<u64, Stop> {
        let mut dirtied = 0;
        while left > 0 {
            let step = left.min(at(self.bandwidth, SAMPLE));
            let takes = self.time(step);
            self.send(step, Instant::now() + takes).await?;
            left -= step;
            if !self.stopped {
                dirtied = (dirtied + at(self.dirty_rate, takes)).min(self.memory);
            }
            if left > 0 {
                self.tell(left + dirtied)?;
            }
        }
        Ok(dirtied)
    }

    /// Takes until then.
    async fn send(&mut self, bytes: u64, until: Instant) -> Result<(), Stop> {
        let really = bytes.div_ceil(REALLY_SENT);
        copy(&mut tokio::io::AsyncReadExt::take(repeat(0x5a), really), &mut self.way).await?;
        self.sent += really;
        self.transferred += bytes;
        sleep_until(until).await;
        Ok(())
    }

    /// A sample, and what its policy does then.
    fn tell(&mut self, left: u64) -> Result<(), Stop> {
        let sample = Progress {
            elapsed: self.begun.elapsed(),
            total: ByteSize::b(self.memory),
            remaining: ByteSize::b(left),
            transferred: ByteSize::b(self.transferred),
            rate: ByteSize::b(self.bandwidth),
            dirty_rate: ByteSize::b(if self.round > 1 { self.dirty_rate } else { 0 }),
            round: self.round,
            stopped: self.stopped,
            ..Progress::default()
        };
        (self.control.progress)(sample);
        let action = self.control.ladder.see(&sample);
        self.control.foresight.show(&self.control.ladder);
        match action {
            None => return Ok(()),
            Some(Action::Suspend) => self.stopped = true,
            Some(Action::Abort) => return Err(Stop::GivenUp),
            Some(Action::Downtime(_)) => {}
            Some(Action::Postcopy) => unreachable!("{} was not let in with such a policy", self.order.instance_name),
        }
        if let Some(action) = action {
            (self.control.deed)(action);
        }
        Ok(())
    }

    fn time(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bandwidth as f64)
    }
}

/// How many bytes a rate makes in a time.
fn at(rate: u64, time: Duration) -> u64 {
    ((rate as f64 * time.as_secs_f64()) as u64).max(1)
}

enum Stop {
    Broken(io::Error),
    GivenUp,
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}
