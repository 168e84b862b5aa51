-- In the head-end's database, once, by its administrator. The server needs wal_level=logical.
-- Every table needs a primary key. Of a table in partitions changes come under its own name, and dropped ones are none.
CREATE PUBLICATION ami_headend FOR TABLE public.reads, public.events, public.transformer_meter_count
  WITH (publish_via_partition_root = true);
CREATE ROLE ami_cdc LOGIN REPLICATION;  -- \password ami_cdc
GRANT USAGE ON SCHEMA public TO ami_cdc;
GRANT SELECT ON public.reads, public.events, public.transformer_meter_count TO ami_cdc;
