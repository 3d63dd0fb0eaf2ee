from __future__ import annotations

from ottla.config.environment import read_environment


def settings(**variables: str) -> dict[str, str]:
    return read_environment(variables).settings


def test_both_families_of_images_are_understood() -> None:
    assert settings(KAFKA_LOG_RETENTION_MS="5") == {"log.retention.ms": "5"}
    # apache/kafka: "__" is "_" and "___" is "-"; Confluent: "__" is "-" and "___" is "_".
    assert settings(KAFKA_LISTENER_NAME_MY__L_SSL_KEYSTORE_TYPE="JKS") == {
        "listener.name.my_l.ssl.keystore.type": "JKS"
    }
    assert settings(KAFKA_ZOOKEEPER_CLIENTCNXNSOCKET="x") == {"zookeeper.clientCnxnSocket": "x"}


def test_ottla_variables_are_stronger_and_some_are_flags() -> None:
    found = read_environment(
        {
            "KAFKA_NUM_PARTITIONS": "1",
            "OTTLA_NUM_PARTITIONS": "2",
            "OTTLA_FOREIGN_CONFIRM": "true",
            "OTTLA_PORT": "19092",
            "OTTLA_DATA_DIR": "/data",
            "CLUSTER_ID": "abc",
        }
    )
    assert found.settings == {"num.partitions": "2", "ottla.foreign.confirm": "true"}
    assert found.flags == {"port": "19092", "data_dir": "/data", "cluster_id": "abc"}
    assert found.notes == ()


def test_what_names_no_setting_is_noted_with_a_guess_but_not_refused() -> None:
    found = read_environment({"KAFKA_NUM_PARTITION": "3", "KAFKA_QWERTZ": "1", "kafka_lower": "1", "PATH": "/bin"})
    assert found.settings == {}
    assert found.notes == (
        "The environment variable KAFKA_NUM_PARTITION names no setting; did you mean num.partitions?",
        "The environment variable KAFKA_QWERTZ names no setting",
    )


def test_variables_that_come_with_images_and_kubernetes_are_not_noted() -> None:
    found = read_environment(
        {
            "KAFKA_HEAP_OPTS": "-Xmx1g",
            "KAFKA_JMX_PORT": "1",
            "KAFKA_PORT": "tcp://10.0.0.1:9092",
            "KAFKA_SERVICE_HOST": "10.0.0.1",
            "KAFKA_PORT_9092_TCP_ADDR": "10.0.0.1",
            "KAFKA_SERVICE_PORT_KAFKA": "9092",
            "OTTLA_PORT": "tcp://10.0.0.1:9092",
        }
    )
    assert found == ({}, {}, ())
