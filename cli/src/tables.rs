//! `ferrite tables`, and `--table` of the commands that read and write keys.

use ferrite_client::{BlockingClient, ErrorCode, Mode, ReadError, Table, TableId};

use crate::connection::ClusterArgs;
use crate::outcome::{Failure, unread};
use crate::status::print_table;

/// List the tables of a cluster
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Which table keys are of.
#[derive(clap::Args)]
pub(crate) struct TableArgs {
    /// The table that the keys are of; `ferrite tables` lists them
    #[arg(long = "table", value_name = "NAME", default_value = Table::DEFAULT_NAME)]
    name: String,
}

impl TableArgs {
    /// The table's number in this cluster.
    pub(crate) fn find(&self, client: &mut BlockingClient) -> Result<TableId, Failure> {
        self.find_with_mode(client).map(|(table, _)| table)
    }

    /// The table's number in this cluster, and what becomes of concurrent writes in it.
    pub(crate) fn find_with_mode(&self, client: &mut BlockingClient) -> Result<(TableId, Mode), Failure> {
        // It always exists, and always keeps the last write.
        if self.name == Table::DEFAULT_NAME {
            return Ok((TableId::DEFAULT, Mode::Lww));
        }
        match client.table(&self.name) {
            Ok(table) => Ok((table.id, table.mode)),
            Err(ReadError::Refused(fault)) if fault.code == ErrorCode::NoTable => {
                let hint =
                    "`ferrite tables` lists those there are, [[table]] in the configuration declares one";
                Err(Failure::usage(format!("{}: {hint}", fault.text)))
            }
            Err(error) => Err(Failure::failed(unread(&error))),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let topology = args.cluster.connect()?.topology().map_err(Failure::failed)?;
    let mut tables: Vec<&Table> = topology.tables.as_slice().iter().collect();
    tables.sort_by(|one, other| one.name.cmp(&other.name));
    let head = ["TABLE", "ID", "MODE", "REPLICATION", "TTL"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = [head].into_iter().chain(tables.into_iter().map(row)).collect();
    print_table(&rows);
    Ok(())
}

fn row(table: &Table) -> Vec<String> {
    let mode = match table.max_siblings {
        0 => table.mode.to_string(),
        most => format!("{} (at most {most})", table.mode),
    };
    let (id, ttl) = (table.id.0.to_string(), table.ttl_in_words());
    vec![table.name.clone(), id, mode, table.replication.to_string(), ttl]
}
