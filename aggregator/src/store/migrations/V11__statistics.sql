-- Nobody selects by what is in these lists, but ANALYZE would count every element of 30,000 of them each
-- time that a tenth of the windows has changed, which is twice a minute.
DO $$
DECLARE
    listed text;
    lists  text;
BEGIN
    FOREACH listed IN ARRAY ARRAY['speed_stats_5m', 'speed_stats_1h', 'speed_stats_24h', 'speed_history'] LOOP
        FOREACH lists IN ARRAY ARRAY['hist', 'class_n', 'lane_n', 'lane_n_speed', 'lane_sum_ckmh'] LOOP
            EXECUTE format('ALTER TABLE %I ALTER COLUMN %I SET STATISTICS 0', listed, lists);
        END LOOP;
    END LOOP;
END $$;
