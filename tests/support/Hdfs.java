import java.io.File;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hdfs.MiniDFSCluster;

/** A NameNode and a DataNode in one process. Arguments: the folder, the NameNode's RPC port, its HTTP port. */
public class Hdfs {
    public static void main(String[] given) throws Exception {
        Configuration settings = new Configuration();
        settings.set(MiniDFSCluster.HDFS_MINIDFS_BASEDIR, given[0]);
        boolean isNew = !new File(given[0]).exists();
        MiniDFSCluster cluster = new MiniDFSCluster.Builder(settings)
                .nameNodePort(Integer.parseInt(given[1]))
                .nameNodeHttpPort(Integer.parseInt(given[2]))
                .numDataNodes(1)
                .format(isNew)
                .build();
        cluster.waitActive();
        Thread.currentThread().join();
    }
}
