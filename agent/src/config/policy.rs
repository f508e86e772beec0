//! How live migrations from this host may come to their end: `[policy.NAME]`, in the inventory's form.

use toml::Value;
use vmferry_core::convergence::{Policy, PolicyText};

/// Those that are written there, by their names.
pub(super) fn policies(problems: &mut Vec<String>, written: Option<Value>) -> Vec<Policy> {
    let table = match written {
        Some(Value::Table(table)) => table,
        Some(_) => {
            problems.push("policy: is not a table; write [policy.NAME]".to_owned());
            return Vec::new();
        }
        None => return Vec::new(),
    };
    let read = |(name, value): (String, Value)| {
        let text = value.try_into::<PolicyText>().map_err(|error| error.message().to_owned());
        let policy = text.and_then(|text| text.policy(&name).map_err(|invalid| invalid.to_string()));
        let remedy = "write `downtime`, and `steps` of which the last one ends it; `vmferry policies` lists some";
        policy.map_err(|what| problems.push(format!("policy.{}: is none: {what}; {remedy}", name.escape_debug()))).ok()
    };
    table.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Policy>, Vec<String>) {
        let mut problems = Vec::new();
        let table: toml::Table = text.parse().expect("TOML");
        let policies = policies(&mut problems, table.get("policy").cloned());
        (policies, problems)
    }

    #[test]
    fn policies_are_written_as_in_an_inventory() {
        let (policies, problems) = read(
            "[policy.default]\ndowntime = '30ms'\nsteps = [{ after = '1h', do = 'abort' }]\n\
             [policy.night]\ndowntime = '1s'\nthrottle = { initial = 20, increment = 10 }\npostcopy = true\n\
             steps = [{ stalled = 2, downtime = '2s' }, { after = '1m', after_per_gib = '1m', do = 'suspend' }]\n",
        );
        assert_eq!(problems, [""; 0]);
        let names: Vec<_> = policies.iter().map(Policy::name).collect();
        assert_eq!(names, ["default", "night"]);
        assert!(policies[1].may_suspend() && policies[1].may_postcopy());
        assert_eq!(read("name = 'a'"), (vec![], vec![]));
    }

    #[test]
    fn every_policy_that_is_none_is_told() {
        let (policies, problems) = read(
            "[policy.'Fast One']\ndowntime = '30ms'\nsteps = [{ after = '1h', do = 'abort' }]\n\
             [policy.endless]\ndowntime = '30ms'\nsteps = []\n\
             [policy.misspelt]\ndowntme = '30ms'\nsteps = []\n\
             [policy.good]\ndowntime = '30ms'\nsteps = [{ after = '1h', do = 'abort' }]\n",
        );
        assert_eq!(policies.len(), 1, "{problems:?}");
        for (name, words) in [
            ("policy.Fast One", "is no name of a policy"),
            ("policy.endless", "it has no end"),
            ("policy.misspelt", "unknown field `downtme`"),
        ] {
            let told = |problem: &String| problem.starts_with(name) && problem.contains(words);
            assert!(problems.iter().any(told), "{name}: {problems:#?}");
        }
        assert_eq!(read("policy = 'fast'").1, ["policy: is not a table; write [policy.NAME]"]);
    }
}
