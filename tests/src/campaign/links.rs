//! Links between two of three (the hosts, and the coordinator in the fabric), harmed without anybody's carrier going.

use std::process::Command;

use anyhow::Result;

use super::draw::{Between, Harm};
use crate::{
    Host, Testbed,
    network::{Link, OPERATOR, command_in},
    process::{run, run_with_input},
};

/// What a slow link lets through: a segment that the memory is sent in takes 64 ms.
const RATE: &str = "8mbit";

/// A link that is harmed, until [`Harmed::mend`].
#[derive(Debug)]
pub(crate) struct Harmed {
    fabric: String,
    slowed: Vec<String>,
}

/// Harms the link between two.
pub(crate) fn harm(
    testbed: &Testbed,
    harm: Harm,
    between: Between,
    source: &Host,
    destination: &Host,
) -> Result<Harmed> {
    let fabric = testbed.layout().fabric();
    let ports = [source, destination].map(|host| Link::Underlay.port(host.name()));
    let mut harmed = Harmed { fabric, slowed: Vec::new() };
    match harm {
        Harm::Cut => harmed.filter(between, &ports, "drop")?,
        Harm::Lossy => harmed.filter(between, &ports, "numgen random mod 100 < 30 drop")?,
        Harm::Slow => {
            let operator = OPERATOR.to_string();
            let [from, to] = [source, destination].map(|host| host.address().to_string());
            match between {
                Between::Hosts => {
                    harmed.slow(&ports[0], &to)?;
                    harmed.slow(&ports[1], &from)?;
                }
                // What the coordinator is answered passes no queue of the fabric.
                Between::CoordinatorAndSource => harmed.slow(&ports[0], &operator)?,
                Between::CoordinatorAndDestination => harmed.slow(&ports[1], &operator)?,
            }
        }
    }
    Ok(harmed)
}

impl Harmed {
    /// Lets everything through again.
    pub(crate) fn mend(&mut self) -> Result<()> {
        // Made first, so that there is one to delete.
        let forget = "add table bridge faults\ndelete table bridge faults\n";
        run_with_input(self.command("nft").args(["-f", "-"]), forget)?;
        while let Some(port) = self.slowed.pop() {
            run(self.command("tc").args(["qdisc", "del", "dev", &port, "root"]))?;
        }
        Ok(())
    }

    fn filter(&self, between: Between, [source, destination]: &[String; 2], verdict: &str) -> Result<()> {
        let forward = |from: &str, to: &str| format!("iifname \"{from}\" oifname \"{to}\" {verdict}\n");
        let (input, output, passing) = match between {
            Between::Hosts => {
                (String::new(), String::new(), forward(source, destination) + &forward(destination, source))
            }
            Between::CoordinatorAndSource | Between::CoordinatorAndDestination => {
                let port = if between == Between::CoordinatorAndSource { source } else { destination };
                (format!("iifname \"{port}\" {verdict}\n"), format!("oifname \"{port}\" {verdict}\n"), String::new())
            }
        };
        let chain = |hook: &str, rules: &str| {
            format!("chain {hook} {{\ntype filter hook {hook} priority 0; policy accept;\n{rules}}}\n")
        };
        let chains = chain("input", &input) + &chain("output", &output) + &chain("forward", &passing);
        run_with_input(self.command("nft").args(["-f", "-"]), &format!("table bridge faults {{\n{chains}}}\n"))
            .map(drop)
    }

    /// What this address sends through the port waits.
    fn slow(&mut self, port: &str, address: &str) -> Result<()> {
        self.slowed.push(port.to_owned());
        let lines = format!(
            "qdisc add dev {port} root handle 1: htb default 1
             class add dev {port} parent 1: classid 1:1 htb rate 10gbit quantum 60000
             class add dev {port} parent 1: classid 1:2 htb rate {RATE}
             filter add dev {port} parent 1: protocol ip u32 match ip src {address}/32 flowid 1:2
            "
        );
        run_with_input(self.command("tc").args(["-batch", "-"]), &lines).map(drop)
    }

    fn command(&self, program: &str) -> Command {
        command_in(&self.fabric, program)
    }
}

impl Drop for Harmed {
    fn drop(&mut self) {
        // A run that failed must not leave its harm to the next.
        let _ = self.mend();
    }
}
